# make demo: the main job on real handwritten digits.  make test: everything that is checked.
PYTHON ?= python3
BIN := .venv/bin
PIP = $(BIN)/pip install --quiet --disable-pip-version-check
# By version alone: an index for CPUs has other files of torch than one for GPUs.
TORCH := torch==2.13.0
COMPILE = pip compile pyproject.toml - --generate-hashes --no-annotate --no-header --no-emit-package torch \
  --python-version 3.11.5 --quiet $(LOCK)

.PHONY: demo test test-hard lint format browser docs bench pictures lock clean

demo: .venv/installed
	$(BIN)/vlprompt demo

# Two processes of one thread each, as on two cores.
test: .venv/tested lint browser docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# Kills, damaged files, a server under load, faults: some twenty minutes on two cores.
test-hard: .venv/tested
	$(BIN)/python -m pytest -q -s tests/hard

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
	$(BIN)/python benchmarks/frozen.py
	$(BIN)/python benchmarks/frozen.py --memory
	$(BIN)/python benchmarks/startup.py

# The pictures of the README, and what the notebook shows; the demo runs where its records are not there.
pictures: .venv/tested browser
	test -e out/demo/dpl-seed3 || $(BIN)/vlprompt demo --seeds 1 2 3
	$(BIN)/python docs/make_pictures.py out/demo

# The tests of pages need a browser; where none can be installed they are skipped, and say so.
browser:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no chromium here and none can be installed: the tests of pages will be skipped"

# Of every package but torch all files are known by their hashes; setuptools, which builds ours, is one of them.
.venv/installed: pyproject.toml requirements.txt
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r requirements.txt
	$(PIP) --no-build-isolation $(TORCH) -e .
	touch $@

.venv/tested: .venv/installed requirements-dev.txt
	$(PIP) --no-deps --require-hashes -r requirements-dev.txt
	$(PIP) --no-build-isolation $(TORCH) -e ".[dev]"
	touch $@

# After a change of pyproject.toml; --upgrade-package NAME in LOCK takes a newer one.
lock: .venv/installed
	$(PIP) uv
	echo "$(TORCH)" | $(BIN)/uv $(COMPILE) -o requirements.txt
	echo "$(TORCH)" | $(BIN)/uv $(COMPILE) --extra dev -o requirements-dev.txt

clean:
	rm -rf .venv out site
