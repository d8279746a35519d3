"""``python -m vlprompt``, and ``torchrun -m vlprompt`` for several processes."""

import sys

from vlprompt.cli.main import main

sys.exit(main())
