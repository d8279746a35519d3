# make demo: the main job on real handwritten digits.  make test: everything that is checked.
PYTHON ?= python3
BIN := .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt

.PHONY: demo test lint format browser docs bench clean

demo: .venv/installed
	$(BIN)/vlprompt demo

test: .venv/tested lint browser docs
	$(BIN)/python -m pytest -q

lint: .venv/tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache --no-logo

format: .venv/tested
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/tested
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

bench: .venv/installed
	$(BIN)/python benchmarks/bench.py
	$(BIN)/python benchmarks/startup.py

# The tests of pages need a browser; where none can be installed they are skipped, and say so.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no chromium here and none can be installed: the tests of pages will be skipped"

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(INSTALL) -e .
	touch $@

.venv/tested: .venv/installed
	$(INSTALL) -e ".[dev]"
	touch $@

clean:
	rm -rf .venv out site
