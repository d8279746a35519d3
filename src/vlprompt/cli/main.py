"""The command ``vlprompt``."""

from __future__ import annotations

import functools
import gc
import importlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from vlprompt.cli.start_up import no_collector
from vlprompt.errors import UserError

COMMANDS = {
    "fit": "Train a classifier on labelled images.",
    "distill": "Train a small classifier to answer as a larger one, on images without labels.",
    "search": "Find the context length of every layer.",
    "predict": "Predict the classes of images.",
    "evaluate": "Measure a classifier on labelled images.",
    "compare": "Compare methods on your own images.",
    "bench": "Compare methods on a suite of data sets.",
    "report": "Make the page and the tables of a benchmark's results.",
    "methods": "List the methods.",
    "words": "Show what a learned context looks like in words.",
    "data": "Check which of the benchmark's data sets are there.",
    "cache": "Show or clear what is kept on disk.",
    "export": "Write a classifier as ONNX or as a transformers folder.",
    "serve": "Serve a classifier over HTTP.",
    "app": "Open a page to try and train classifiers.",
    "demo": "Zero-shot, CoOp and DPL on real handwritten digits.",
    "toy": "Train the built-in backbone again.",
}
"""What each command does; it is the function of its name in the file of its name."""
PARSE_THEMSELVES = ("fit", "distill", "search")
"""Commands whose flags depend on the method."""


QUIET = "--quiet"
"""Of every command: nothing but results and errors."""


def run() -> None:
    """The command as a process of its own."""
    for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL)):
        if signal.getsignal(number) == usual:  # not where it is to be ignored, as after nohup
            signal.signal(number, _stop)
    try:
        try:
            code = main()
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # all is done: there is nothing to stop
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read it, such as head, has enough
        code = 0
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:  # standard output on a full disk
        code = 2
        print(f"vlprompt: the result cannot be written ({error.strerror}): make room", file=sys.stderr)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        sys.exit(code)
    finally:
        gc.freeze()  # the end need not look through all that imports made


_told: list[int] = []
"""Signals that told this process to stop. Libraries in C make other errors of the interrupt that follows."""


def _stop(number: int, _: object) -> None:
    """SIGTERM cleans up as Ctrl-C does."""
    _told.append(number)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; 0 when all went well, 2 for bad input."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "--version"):
        _help(version=bool(words) and words[0] == "--version")
        return 0 if words else 2
    try:
        _check_present_folder()
        _run(words[0], words[1:])
        return 0
    except KeyboardInterrupt:
        pass
    except UserError as error:
        if not _told:
            print(f"vlprompt: {error}", file=sys.stderr)
            return 2
    except Exception:
        if not _told:
            raise
    print("vlprompt: stopped; the same command goes on where it was", file=sys.stderr)
    return 143 if signal.SIGTERM in _told else 130


def _run(name: str, argv: Sequence[str]) -> None:
    if name not in COMMANDS:
        raise UserError(f"unknown command '{name}': there are {', '.join(COMMANDS)}")
    _set_up_messages(quiet=QUIET in argv)
    argv = [word for word in argv if word != QUIET]
    from vlprompt.cli.config_file import expand_config
    from vlprompt.cli.flags import read_flags

    with no_collector():
        command = getattr(importlib.import_module(f"vlprompt.cli.{name}"), name)
    with _in_a_line():
        argv = expand_config(argv)
        if name in PARSE_THEMSELVES:
            command(argv)
        else:
            read_flags(_later(command), name, argv)()


def _later(command: Callable[..., None]) -> Callable[..., Callable[[], None]]:
    """A command that is read and checked now, and runs when it is called."""

    @functools.wraps(command)
    def read(*args: Any, **flags: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **flags)

    return read


def _check_present_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError("the present folder is gone: change to one that is there") from error


@contextmanager
def _in_a_line() -> Iterator[None]:
    """What the file system, or a method file of one's own, refuses is a line, too."""
    try:
        yield
    except (UserError, BrokenPipeError):
        raise
    except Exception as error:
        from vlprompt.methods.registry import fault_of_a_file

        if fault := fault_of_a_file(error):
            raise fault from error
        if isinstance(error, OSError) and error.filename is not None:
            raise UserError(f"'{os.fsdecode(error.filename)}': {error.strerror}: check it") from error
        raise


class _Lines(logging.Handler):
    """A line for each message."""

    def emit(self, record: logging.LogRecord) -> None:
        """Say it."""
        from vlprompt.progress import say

        say(f"{record.levelname.lower()}: {record.getMessage()}")


def _set_up_messages(quiet: bool) -> None:
    """Warnings in a line each, the libraries', too, or none where it shall be quiet; none of their bars."""
    from vlprompt.progress import console, quiet_libraries

    quiet_libraries()
    console.quiet = quiet
    log = logging.getLogger("vlprompt")
    log.handlers = [_Lines()]
    log.setLevel(logging.INFO)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="surrogateescape")  # names that are no UTF-8, as they are


def _help(version: bool) -> None:
    from vlprompt import __version__

    if version:
        print(f"vlprompt {__version__}")
        return
    print("usage: vlprompt COMMAND ...\n")
    for name, summary in COMMANDS.items():
        print(f"  {name:10} {summary}")
    print("\n'vlprompt COMMAND --help' explains a command; '--config FILE' takes its flags from a YAML file;")
    print("'--quiet' leaves out progress and warnings.")
