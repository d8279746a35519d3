"""Benchmarks are not run by the tests, but what they import of this package must be there."""

import importlib
from pathlib import Path

import pytest

FILES = sorted((Path(__file__).parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_benchmark_finds_what_it_imports(file):
    assert importlib.import_module(file.stem).__doc__
