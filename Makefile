# What a person can ask of this checkout. Every target sets up what it needs; `make` lists them.

SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV_PYTHON := .venv/bin/python
READY := .venv/.ready
# Extra arguments, e.g. `make test ARGS="tests/unit -k yamux"`.
ARGS ?=
# Test files that run at a time: many of them wait for networks more than they work, so that six
# keep two processors busy, and four do not.
JOBS ?= 6
# Containers often forbid Python to keep what it has compiled. Tests start a thousand processes, each
# of which would compile all of Lattica anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test lint bench clean

help:
	@echo "make demo    set up, then fetch a checkpoint from another node, and a file with eight at once"
	@echo "make test    set up, then run all tests (ARGS=... goes to pytest)"
	@echo "make lint    ruff, mypy --strict and import-linter on the built wheel"
	@echo "make bench   all benches, with peers (ARGS=... goes to tools.bench)"
	@echo "make clean   remove everything that the other targets made, .venv included"

$(READY): pyproject.toml tools/setup.sh
	@sh tools/setup.sh

demo: $(READY)
	@$(VENV_PYTHON) -m tools.demo $(ARGS)

test: $(READY)
	@$(VENV_PYTHON) -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder --durations 10 \
		$(ARGS)

lint: $(READY)
	@sh tools/lint.sh

bench: $(READY)
	@$(VENV_PYTHON) -m tools.bench all $(ARGS)

clean:
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache \
		.import_linter_cache .hypothesis
	find lattica nat crdt rpc dht tests tools -name __pycache__ -type d -prune \
		-exec rm -rf {} +
