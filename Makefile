# Every target works from a clean clone: what it needs is installed into .venv first.
#
#   make demo     tell, ask, learn, ask again, undo: the whole story on a real model (491 MB, got once)
#   make test     the test suite, in two processes
#   make check    lint, format, types, layers
#   make docs     the documentation site in site/
#   make setup    .venv only
#
# MODEL=pocket (or any other) names the demo's model; pocket is inside the package: no download.
# WORKERS=4 names the processes of the test suite; 0 runs it in one, where a debugger works.
# PYTHON=/path/to/python names the interpreter (3.11 or newer).
# PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu" takes the small CPU build of torch.

PIP_ARGS ?=
PYTHON ?=
# Not from the environment: there it may mean anything.
MODEL :=
WORKERS := 2
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
	$(BIN)/engrain demo $(if $(MODEL),--model $(MODEL))

test: $(SETUP)
	$(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile

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
	$(BIN)/engrain bench life --model pocket --recipe default --recipe naive-lora --recipe naive-full --recipe joint \
		--seeds 3 --json benchmarks/results/life.json

clean:
	rm -rf .venv site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
