# `make demo` runs the main job on the embedded workload; `make test` checks everything.
# Each makes its own virtual environment; nothing but Python 3.11+ and make is assumed.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test lint types unit clean

demo: $(VENV)/.demo
	$(BIN)/python sample_workloads/demo.py

test: lint types unit

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

# In two processes where there are two cores; then what measures time or serves, alone.
unit: $(VENV)/.dev
	$(BIN)/python -m pytest -m 'not alone' -n logical --maxprocesses 2 --dist loadfile
	$(BIN)/python -m pytest -m alone

$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "inferplan needs Python 3.11 or newer; this is %d.%d (set PYTHON=...)" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install -q -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.made pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	@touch $(VENV)/.demo $@

clean:
	rm -rf $(VENV) build
