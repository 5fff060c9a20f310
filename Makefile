# Every target works from a clean clone: what it needs is installed into .venv first.
#
#   make demo     teach, measure, undo: the whole story on the model inside the package
#   make test     the test suite
#   make check    lint, format, types, layers
#   make docs     the documentation site in site/
#   make setup    .venv only
#
# PYTHON=/path/to/python names the interpreter (3.11 or newer).
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" takes the small CPU build of torch.

PIP_ARGS ?=
PYTHON ?=
export PIP_ARGS PYTHON

BIN := .venv/bin
SETUP := .venv/.installed
DOCS := .venv/.installed-docs

.DEFAULT_GOAL := help
.PHONY: help setup demo test check format docs bench clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(SETUP)

KERNELS := hatch_build.py $(wildcard src/engrain/model/kernels/*.[ch]) src/engrain/model/kernels/build.py

$(SETUP): pyproject.toml scripts/setup.sh $(KERNELS)
	@bash scripts/setup.sh $@ dev

$(DOCS): $(SETUP)
	@bash scripts/setup.sh $@ dev docs

demo: $(SETUP)
	$(BIN)/engrain demo

test: $(SETUP)
	$(BIN)/python -m pytest -q

check: $(SETUP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src
	$(BIN)/lint-imports

format: $(SETUP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(DOCS)
	$(BIN)/mkdocs build --strict

bench: $(SETUP)
	$(BIN)/engrain bench life --recipe default --recipe naive-lora --recipe naive-full --recipe joint \
		--seeds 3 --json benchmarks/results/life.json

clean:
	rm -rf .venv site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
