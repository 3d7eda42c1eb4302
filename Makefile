# `make help` lists the targets. The first one that needs it makes the environment in .venv;
# later ones find it there, and make it anew only when pyproject.toml or constraints.txt change.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-test
PYTHON1 ?= python3.13
JOBS ?= auto
CASES ?= 5000
VENV1 := .venv-arviz1
STAMP1 := $(VENV1)/.installed

.DEFAULT_GOAL := help
.PHONY: help demo quick test test-all fuzz test-arviz1 lint reference package benchmarks clean

help:  ## list the targets
	@echo "make TARGET, where TARGET is one of:"
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  %-12s%s\n", $$1, $$2 }' Makefile

demo: $(STAMP)  ## learn handwritten digits, sample them, restore noisy ones; results in out/
	@echo "demo: a Boltzmann machine learns handwritten digits; figures and chains go to out/"
	@$(BIN)/python -m pyro_ebm demo

quick: $(STAMP)  ## one case of each fast test, in less than a minute on two cores
	@echo "quick: one case of each fast test, and the examples in docstrings"
	@$(BIN)/python -m pytest -n $(JOBS) -m "quick"

test: $(STAMP)  ## the fast tests
	@echo "test: the fast tests (make test-all runs the slow ones too)"
	@$(BIN)/python -m pytest -n $(JOBS) -m "not slow"

test-all: $(STAMP)  ## every test
	@echo "test-all: every test, the slow ones too"
	@$(BIN)/python -m pytest -n $(JOBS)

fuzz: $(STAMP)  ## random energies and models against enumeration, CASES of each kind (5000)
	@echo "fuzz: $(CASES) random cases of each kind; a failing one is printed, as small as it can be"
	@PYRO_EBM_FUZZ=$(CASES) $(BIN)/python -m pytest -n $(JOBS) tests/fuzz

test-arviz1: $(STAMP1)  ## the export of chains, on ArviZ 1.x (needs Python 3.12 or newer)
	@echo "test-arviz1: the export of chains, on ArviZ 1.x and without torch"
	@$(VENV1)/bin/python -m pytest -c /dev/null --rootdir=. --noconftest -p no:cacheprovider \
		-W error tests/arviz1

lint: $(STAMP)  ## style, format, types and the direction of imports
	@echo "lint: style and format (ruff), types (mypy), the direction of imports (import-linter)"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

reference: $(STAMP)  ## the tables of docs/reference.md, from the docstrings
	@echo "reference: writing docs/reference.md"
	@$(BIN)/python docs/reference.py

package: $(STAMP)  ## the wheel and the source archive in dist/, installed in a new environment and tried
	@echo "package: building dist/, installing each of its files in build/package, asking its version"
	@rm -rf dist build/package && $(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt build
	@$(BIN)/python -m build --outdir dist . > /dev/null
	@set -e; for file in dist/*.whl dist/*.tar.gz; do \
		rm -rf build/package && $(PYTHON) -m venv build/package; \
		build/package/bin/python -m pip install --quiet --disable-pip-version-check \
			-c constraints.txt "$$file"; \
		(cd build && package/bin/python -c "import pyro_ebm as p; from importlib.resources import files; \
assert files(p).joinpath('py.typed').is_file() and p.datasets.southern_women().attendance.shape; \
print('$$file', 'gives pyro_ebm', p.__version__)"); \
	done

benchmarks: $(STAMP)  ## speed, beside the bare products that bound it
	@echo "benchmarks: each script in benchmarks/, one after the other"
	@set -e; for script in benchmarks/[!_]*.py; do \
		echo "== $$script"; $(BIN)/python "$$script"; \
	done

clean:  ## remove results and caches (the environments stay)
	@echo "clean: removing out/, build/ and caches; $(VENV) and $(VENV1) stay"
	@rm -rf out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name '$(VENV)*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	@if ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
		echo "environment: making $(VENV) with $(PYTHON)"; \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null || { \
			found=$$($(PYTHON) --version 2> /dev/null) || found="not to be found"; \
			echo "pyro_ebm needs Python 3.11 or newer, but '$(PYTHON)' is $$found."; \
			echo "Name one that is: make PYTHON=python3.12 $(MAKECMDGOALS)"; \
			exit 1; \
		}; \
		$(PYTHON) -m venv $(VENV); \
	fi
	@$(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "pyro_ebm needs Python 3.11 or newer, but $(VENV) holds" \
			"$$($(BIN)/python --version 2>&1). Remove $(VENV) and run make again."; \
		exit 1; \
	}
	@echo "environment: installing pyro_ebm and its tested dependencies in $(VENV)" \
		"(minutes, the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		-c constraints.txt -e ".[test]"
	@touch $(STAMP)

$(STAMP1):
	@$(PYTHON1) -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2> /dev/null || { \
		found=$$($(PYTHON1) --version 2> /dev/null) || found="not to be found"; \
		echo "ArviZ 1.x needs Python 3.12 or newer, but '$(PYTHON1)' is $$found."; \
		echo "Name one that is: make PYTHON1=python3.12 $(MAKECMDGOALS)"; \
		exit 1; \
	}
	@echo "environment: making $(VENV1) with $(PYTHON1)"
	@$(PYTHON1) -m venv $(VENV1)
	@$(VENV1)/bin/python -m pip install --quiet --disable-pip-version-check \
		"arviz>=1" numpy pytest h5netcdf h5py xarray
	@touch $(STAMP1)
