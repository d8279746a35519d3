"""``python -m vlprompt``, and ``torchrun -m vlprompt`` for several processes."""

from vlprompt.cli.main import run

run()
