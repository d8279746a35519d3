"""``python -m vlprompt``, and ``torchrun -m vlprompt`` for several processes."""

import sys

from vlprompt.cli import main

sys.exit(main())
