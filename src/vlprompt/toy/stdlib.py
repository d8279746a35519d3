"""Texts that every Python installation has: docstrings and comments of its standard library, by package."""

from __future__ import annotations

import ast
import inspect
import sysconfig
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from zlib import crc32

from vlprompt.dataset import Dataset, Item, Text

PACKAGES = ("asyncio", "email", "encodings", "importlib", "multiprocessing", "unittest", "xml")
"""The classes: packages of many modules that every distribution of Python has."""
SHORTEST, LONGEST = 40, 240
"""Characters of a text; the end of a longer one is left out."""
SHARES = {"train": 0.45, "val": 0.6, "test": 1.0}
"""Where each split ends among the modules of a package, in an order that looks random."""


def load_stdlib() -> Dataset:
    """Which package a docstring or comment comes from; no module gives texts to two splits.

    Labels are real; the texts are those of the running Python.
    """
    known = Counter(text for package in PACKAGES for _, text in set(_texts(package)))
    items: dict[str, list[Item]] = {split: [] for split in SHARES}
    for label, package in enumerate(PACKAGES):
        for module, text in _texts(package):
            if known[text] == 1:  # what several modules say tells nothing, and would be shared
                items[_split_of(package)[module]].append(Item(Text(text), label))
    train, val, test = (tuple(dict.fromkeys(items[split])) for split in SHARES)
    return Dataset("toy:stdlib", PACKAGES, train, val, test)


@cache
def _split_of(package: str) -> dict[str, str]:
    """The split of each module of a package."""
    modules = sorted({name for name, _ in _texts(package)}, key=lambda name: crc32(name.encode()))
    shares = {name: (index + 0.5) / len(modules) for index, name in enumerate(modules)}
    return {n: next(split for split, end in SHARES.items() if share < end) for n, share in shares.items()}


@cache
def _texts(package: str) -> tuple[tuple[str, str], ...]:
    """Module and text of every docstring and comment of a package."""
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted((root / package).rglob("*.py"))
    files = [file for file in files if not {"test", "tests"} & set(file.relative_to(root).parts)]
    return tuple((str(f.relative_to(root)), text) for f in files for text in texts_of(f))


def texts_of(file: Path) -> Iterator[str]:
    """Docstrings and comments of a source file, each in one line."""
    try:
        with tokenize.open(file) as opened:
            source = opened.read()
        tree = ast.parse(source)
    except (OSError, SyntaxError, UnicodeDecodeError):  # some files of the library are there to be wrong
        return
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, kinds) and (found := ast.get_docstring(node)):
            yield from _fit(inspect.cleandoc(found))
    block: list[str] = []
    for line in (*source.splitlines(), ""):
        stripped = line.strip()
        if stripped.startswith("#") and not stripped.startswith("#!"):
            block.append(stripped.lstrip("# "))
        elif block:
            yield from _fit(" ".join(block))
            block = []


def _fit(text: str) -> Iterator[str]:
    """A text in one line, of a length that can be used, if it is long enough."""
    text = " ".join(text.split())
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0]
    if len(text) >= SHORTEST and sum(c.isalpha() for c in text) > len(text) / 2:
        yield text


def corpus() -> list[str]:
    """Docstrings and comments, a line each, of every module but those that the task tests on."""
    root = Path(sysconfig.get_path("stdlib"))
    documents = []
    for file in sorted(root.rglob("*.py")):
        place = file.relative_to(root)
        if {"site-packages", "test", "tests", "idle_test", "lib2to3"} & set(place.parts):
            continue
        splits = _split_of(place.parts[0]) if place.parts[0] in PACKAGES else {}
        if splits.get(str(place), "train") != "train":
            continue
        documents.append("\n".join(texts_of(file)))
    return [document for document in documents if document]
