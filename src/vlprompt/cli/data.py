"""The command ``vlprompt data``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from vlprompt.cli.console import show_rows
from vlprompt.errors import UserError


def data(action: Positional[Literal["check"]], root: Positional[Path], /, json: bool = False) -> None:
    """Check which of the benchmark's data sets are there and complete.

    Args:
        action: 'check' compares every data set with the published counts.
        root: folder of the data sets, laid out as for CoOp.
        json: print a JSON list.
    """
    from vlprompt.data.benchmark import check

    if not root.is_dir():
        raise UserError(f"root '{root}' is no folder: give the folder that holds the data sets")
    show_rows(check(root), "json" if json else "table")
