# Two commands: `make demo` and `make test`. Each sets itself up on a machine that has only Python 3.11 and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo up down test check bench clean help

help:
	@echo "make demo   compress a real model and release it by canary on an embedded stack (make down stops it)"
	@echo "make up     start the embedded stack and serve every deployment"
	@echo "make down   stop the embedded stack"
	@echo "make test   run every test"
	@echo "make check  lint, types, import rules"
	@echo "make bench  time the compression stages of the default run"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Slimline needs Python 3.11 or newer; pass PYTHON=/path/to/python3.11")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/slimline demo

up: $(STAMP)
	$(BIN)/slimline up

down:
	@if test -x $(BIN)/slimline; then $(BIN)/slimline down; else echo "nothing is installed here, so nothing runs"; fi

test: $(STAMP)
	$(BIN)/python -m pytest --numprocesses 3 --dist loadgroup --no-loadscope-reorder

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m benchmarks.compression_stages

clean: down
	rm -rf $(VENV) .slimline
