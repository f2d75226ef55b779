# Two commands are enough: `make run` and `make test`. Each sets up what it needs.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup run test check bench clean again

PYTHON3 ?= python3
JOBS ?= 2
ARGS ?=

# .setup holds the path of the python that medseg was installed for: the .venv here, or, with
# TORCH=keep, the active environment. It is remembered, so TORCH=keep is said once.
made := $(shell cat .setup 2>/dev/null)
ifeq ($(TORCH),keep)
python := $(shell command -v python >/dev/null && python -c 'import sys; print(sys.executable)')
else ifneq ($(TORCH),)
python := .venv/bin/python
else
python := $(or $(wildcard $(made)),.venv/bin/python)
endif
bin := $(patsubst %/,%,$(dir $(python)))

# A matching, existing python is up to date until the list of packages changes.
ifneq ($(and $(filter $(python),$(made)),$(wildcard $(python))),)
stale :=
else
stale := again
endif

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo; echo "GPU machine: activate an environment that has your torch, then 'make setup TORCH=keep'."

setup: .setup  ## install into .venv (TORCH=keep: into the active environment, its torch left alone)

.setup: pyproject.toml constraints.txt $(stale)
ifneq ($(filter .venv/%,$(python)),)
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medseg needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; say which: make setup PYTHON3=python3.12")'
	test -x .venv/bin/python || $(PYTHON3) -m venv .venv
	.venv/bin/python -m pip install -c constraints.txt "$$(grep '^torch==' constraints.txt)"
	.venv/bin/python -m pip install -c constraints.txt -e '.[dev]'
else
	@test -n '$(python)' || { echo "make: no python is active; activate the environment that has your torch"; exit 1; }
	@kept="$$('$(python)' -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null)" \
	  || { echo "make: $(python) has no torch to keep; install torch >= 2.10 there, or run 'make setup' without TORCH=keep"; exit 1; }; \
	  pins="$$(mktemp)"; trap 'rm -f "$$pins"' EXIT; \
	  { echo "torch==$$kept"; grep -v '^torch==' constraints.txt; } > "$$pins"; \
	  echo "keeping torch $$kept of $(python)"; \
	  '$(python)' -m pip install -c "$$pins" -e '.[dev]'
endif
	@echo '$(python)' > .setup

again:

run: .setup  ## the whole road: snakemake --cores all (more by ARGS="--config study=mine")
	$(bin)/snakemake --cores all $(ARGS)

test: .setup  ## the tests (JOBS=2 at once)
	OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(python) -m pytest -n $(JOBS) --dist loadfile $(ARGS)

check: .setup  ## style, types, floors, spelling, workflow
	$(bin)/ruff check
	$(bin)/ruff format --check
	$(bin)/mypy
	$(bin)/lint-imports
	$(bin)/snakefmt --check Snakefile pipelines
	$(bin)/typos
	$(bin)/snakemake --lint

bench: .setup  ## ratios against peers, measured side by side in one run
	$(python) tests/benchmarks/run.py $(ARGS)

clean:  ## remove caches and results: data/prepared, data/runs, data/reports (data/raw stays)
	@for place in data/prepared data/runs data/reports .snakemake outputs multirun lightning_logs dist build \
	  .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis; do \
	  if test -e "$$place"; then echo "removing $$place ($$(du -sh "$$place" | cut -f1))"; rm -rf "$$place"; fi; done
	@find medseg tests -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "data/raw and .venv are left as they are"
