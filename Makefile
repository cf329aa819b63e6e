# Every target makes .venv and installs what it needs by itself; nothing else has to be set up.
# On a machine with CUDA, install torch for it first: see "On GPUs" in README.md.

PYTHON ?= python3
BIN := .venv/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help demo test quick check fix docs bench clean

help: ## Show the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

demo: .venv/installed ## Crawl → data → tokens → base → sft → a conversation, on this machine, a few minutes
	$(BIN)/llmpipe run tiny

test: .venv/installed-dev ## Run all tests
	$(BIN)/pytest -q --durations=10

quick: .venv/installed-dev ## Run the tests that take less than 2 seconds each
	$(BIN)/pytest -q -m "not slow"

check: .venv/installed-dev ## Lint, format, types, import rules, generated documents
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/docs.py --check

fix: .venv/installed-dev ## Repair what ruff can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/installed-dev ## Write docs/reference/ anew from the code
	$(BIN)/python tools/docs.py

bench: .venv/installed-dev ## Measure against peers, each in an environment of its own; writes docs/results/
	$(BIN)/python bench/run.py $(BENCH) $(addprefix --peer ,$(PEERS))

clean: ## Remove .venv and caches, keep runs/
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache build src/llmpipe.egg-info

.venv/bin/python:
	$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"llmpipe needs Python 3.11 or newer, and $(PYTHON) is {v[0]}.{v[1]}; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@ .venv/installed
