# Two commands do everything: `make demo` and `make test`. They need Python 3.11 or newer and make, nothing else.

PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3,$(if $(call is_new,$(name)),$(name))))
is_new = $(shell $(1) -c 'import sys; print("yes" if sys.version_info >= (3, 11) else "")' 2>/dev/null)

VENV := .venv
BIN := $(VENV)/bin
RUNTIME := $(VENV)/.installed-local
DEVELOPMENT := $(VENV)/.installed-dev
UV_VERSION := $(shell sed -n 's/^uv==//p' constraints.txt)

# $(call install,EXTRA): uv when it works here, else pip; both take the same pins, and trust the system's certificates.
define install
	@echo "Installing rds_lake[$(1)] into $(VENV) ..."
	@UV_NATIVE_TLS=1 $(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[$(1)]' 2>$(VENV)/uv.log \
		|| { echo "uv could not (see $(VENV)/uv.log); trying pip ..."; \
		     $(BIN)/python -m pip install --quiet -c constraints.txt -e '.[$(1)]'; }
endef

# With it each process that starts would compile Dagster's modules anew, for some three seconds.
unexport PYTHONDONTWRITEBYTECODE

WORKERS ?= 4
# Processes that run the tests; each starts servers of its own, which take about 1 GB.

.DEFAULT_GOAL := help
.PHONY: help demo test lint bench up down clean

help:  ## Show these targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: $(RUNTIME)  ## Start everything locally, load sample orders and show what happened (NO_UI=1, ORDERS=file.csv)
	$(BIN)/rds-lake demo $(if $(NO_UI),--no-ui) $(if $(ORDERS),--orders '$(ORDERS)')

test: lint  ## Check style and types, then run all tests against real servers
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: $(DEVELOPMENT)  ## Check style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(RUNTIME)  ## Measure ours beside the peers, some minutes (FULL=1: 5 and 20 million rows, hours; ONLY='split load')
	$(BIN)/python -m benchmarks $(if $(FULL),--full) $(foreach stage,$(ONLY),--only $(stage)) $(if $(ROUNDS),--rounds $(ROUNDS))

up: $(RUNTIME)  ## Start the local stack with Dagster's UI (NO_UI=1: without)
	$(BIN)/rds-lake up $(if $(NO_UI),--no-ui)

down: $(RUNTIME)  ## Stop the local stack; its data stay
	$(BIN)/rds-lake down

clean:  ## Remove the environment and all caches; the local stack's data in .rds_lake stay
	@if [ -x $(BIN)/rds-lake ]; then $(BIN)/rds-lake down || true; fi
	rm -rf $(VENV) .bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find rds_lake rds_lake_tests -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps are newer than what they were made from, so a second call installs nothing.
$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/uv
	$(call install,local)
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/uv
	$(call install,dev)
	@touch $@ $(RUNTIME)

$(BIN)/uv: | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check 'uv==$(UV_VERSION)' \
		|| { echo "uv is not to be had; pip will do, more slowly"; printf '#!/bin/sh\nexit 1\n' > $@; chmod +x $@; }

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "error: no Python 3.11 or newer was found (looked for python3.13, python3.12, python3.11, python3)."; \
		echo "Install one, or name it: make PYTHON=/path/to/python3"; exit 1; fi
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "error: $(PYTHON) cannot make virtual environments: its module ensurepip is missing."; \
		echo "Install it: apt-get install $$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
