"""The command ``vlprompt``."""

from __future__ import annotations

import importlib
import logging
import sys
import warnings
from collections.abc import Sequence
from typing import NamedTuple

from vlprompt.errors import UserError


class Command(NamedTuple):
    """A command: where its function is, and what it does in a line."""

    target: str
    summary: str
    reads_argv: bool = False
    """the function takes the command line and parses it itself"""


COMMANDS = {
    "fit": Command("cli.fit:fit", "Train a classifier on labelled images.", True),
    "search": Command("cli.fit:search", "Find the context length of every layer.", True),
    "predict": Command("cli.commands:predict", "Predict the classes of images."),
    "evaluate": Command("cli.commands:evaluate", "Measure a classifier on labelled images."),
    "bench": Command("benchmark.plan:bench", "Compare methods on a suite of data sets."),
    "report": Command("cli.commands:report", "Make the page and the tables of a benchmark's results."),
    "methods": Command("cli.commands:methods", "List the methods."),
    "words": Command("insight.words:words", "Show what a learned context looks like in words."),
    "data": Command("cli.commands:data", "Check which of the benchmark's data sets are there."),
    "export": Command("export.onnx:export", "Write a classifier as ONNX or as a transformers folder."),
    "serve": Command("cli.serve:serve", "Serve a classifier over HTTP."),
    "app": Command("cli.app:app", "Open a page to try and train classifiers."),
    "demo": Command("cli.commands:demo", "Zero-shot, CoOp and DPL on real handwritten digits."),
    "toy": Command("cli.commands:toy", "Train the built-in backbone again."),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "--version"):
        _help(version=bool(words) and words[0] == "--version")
        return 0 if words else 2
    try:
        _run(words[0], words[1:])
    except UserError as error:
        print(f"vlprompt: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("vlprompt: stopped; the same command goes on where it was", file=sys.stderr)
        return 130
    return 0


def _run(name: str, argv: Sequence[str]) -> None:
    if name not in COMMANDS:
        raise UserError(f"unknown command '{name}': there are {', '.join(COMMANDS)}")
    _set_up_messages()
    import tyro

    from vlprompt.cli.config_file import expand_config

    command = COMMANDS[name]
    module, function = command.target.split(":")
    target = getattr(importlib.import_module(f"vlprompt.{module}"), function)
    argv = expand_config(argv)
    if command.reads_argv:
        target(argv)
    else:
        tyro.cli(target, prog=f"vlprompt {name}", args=argv)


def _set_up_messages() -> None:
    """Warnings of ours in a line each; none of the libraries' own bars and notices."""
    from rich.logging import RichHandler
    from transformers.utils import logging as transformers_logging

    from vlprompt.progress import console

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning)
    log = logging.getLogger("vlprompt")
    log.handlers = [RichHandler(console=console, show_time=False, show_path=False, markup=False)]
    log.setLevel(logging.INFO)


def _help(version: bool) -> None:
    from vlprompt import __version__

    if version:
        print(f"vlprompt {__version__}")
        return
    print("usage: vlprompt COMMAND ...\n")
    for name, command in COMMANDS.items():
        print(f"  {name:10} {command.summary}")
    print("\n'vlprompt COMMAND --help' explains a command; '--config FILE' takes its flags from a YAML file.")


if __name__ == "__main__":
    sys.exit(main())
