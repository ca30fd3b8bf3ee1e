# Every target works on a machine that has only Python 3.11, make and git: the first
# one that runs creates the virtual environment.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PQUANT := build/pquant-venv
DATA := /usr/share/datasets/fashion-mnist

export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: help demo notebooks test test-slow test-all lint format bench pquant docs dist data clean

help:
	@echo "make demo       prune a small network and show what comes out"
	@echo "make notebooks  run the notebooks in examples/, and store what they show"
	@echo "make test       the tests that take less than a few seconds each"
	@echo "make test-slow  the other tests"
	@echo "make lint       ruff: style and formatting"
	@echo "make bench      measure the library itself; results in benchmarks/results/"
	@echo "make docs       the documentation, in site/"
	@echo "make pquant     PQuantML, for the accuracy benchmark's rivals.toml"
	@echo "make dist       sdist and wheel, in dist/"

demo: $(READY) data
	$(BIN)/python -m examples.quickstart

notebooks: $(READY) data
	$(BIN)/python -m examples.notebooks

test: $(READY)
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow

test-all: $(READY)
	$(BIN)/python -m pytest

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY) data
	$(BIN)/python -m benchmarks

# It wants another TensorFlow than smart_tf: it has an environment of its own.
pquant:
	[ -x $(PQUANT)/bin/python ] || $(PYTHON) -m venv $(PQUANT)
	$(PQUANT)/bin/python -m pip install --quiet -r benchmarks/accuracy/rivals/pquant.txt

docs: $(READY)
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist: $(READY)
	$(BIN)/python -m build

# Fashion-MNIST as a Debian package, where that is possible.  Without it the examples
# ask the internet, and then fall back on scikit-learn's digits.
data:
	@if [ ! -d $(DATA) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  export DEBIAN_FRONTEND=noninteractive; \
	  (apt-get install -qq -y dataset-fashion-mnist \
	    || (apt-get update -qq && apt-get install -qq -y dataset-fashion-mnist)) \
	    >/dev/null 2>&1 </dev/null \
	    || echo "dataset-fashion-mnist is not to be had; continuing without it"; \
	fi

$(READY): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	[ -x $(BIN)/python ] || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[test]"
	@touch $@

clean:
	rm -rf $(VENV) build examples/build dist site *.egg-info .pytest_cache .ruff_cache .hypothesis
