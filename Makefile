# The front door: make demo test test-all lint speed. Each sets itself up on first use.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Two processes share the files of tests, those with the most end-to-end runs first (tests/conftest.py).
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

.PHONY: help setup demo test test-all lint format speed notebooks clean

help:            ## this list
	@grep -E '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

setup: $(STAMP)  ## build .venv from pinned versions (skipped when it is up to date)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "machbench needs Python 3.11 or newer, found " + sys.version.split()[0] + "; try: make PYTHON=python3.12 setup")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)   ## run experiment `quickstart` and show where its results are
	$(BIN)/machbench run quickstart

test: $(STAMP)   ## run the tests, at most 8 minutes on two cores; every promise has one here
	$(PYTEST) -m 'not soak'

test-all: $(STAMP) ## run the tests that `make test` leaves out: clusters, kill loops, every method, notebooks
	$(PYTEST) -m soak

lint: $(STAMP)   ## ruff (style and format) and mypy (types)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

speed: $(STAMP)  ## own speed beside plain references, as ratios
	$(BIN)/machbench speed

notebooks: $(STAMP) ## run the notebooks and write their outputs into the .ipynb beside each .py
	cd notebooks && ../$(BIN)/jupytext --quiet --set-kernel python3 --to ipynb --execute *.py

clean:           ## remove the environment and caches (results stay)
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
