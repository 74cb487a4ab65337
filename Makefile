# musictrain: `make` lists the targets. Needs Python 3.11 or newer and nothing else; everything is installed into $(VENV).

VENV ?= .venv
PYTHON ?= python3
ARGS ?=
# Tests run in so many processes at once, a file's tests in one of them: make test WORKERS=0 for a single one
WORKERS ?= 2
# Every program in benchmarks/ but jsb, which needs a file: python -m benchmarks.jsb --data FILE
BENCHMARKS ?= $(filter-out jsb,$(patsubst benchmarks/%.py,%,$(shell grep -l '^if __name__' benchmarks/*.py)))

PY := $(VENV)/bin/python
PYTEST := $(PY) -m pytest --numprocesses $(WORKERS) --dist loadfile
INSTALL := PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt $(PY) -m pip install --quiet

.DEFAULT_GOAL := help
.PHONY: help train test test-all lint benchmarks clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-18s %s\n", $$1, $$2 }'
	@echo
	@echo "  ARGS=... is passed on:    make train ARGS=\"--trainer.max_steps 100\"    make test ARGS=\"-k synthesis\""
	@echo "  PYTHON=... and VENV=... choose the interpreter (now $(PYTHON)) and where it is installed (now $(VENV))"

train: $(VENV)/.installed  ## install what is needed, then train the shipped recipe on Bach's chorales
	$(PY) -m musictrain fit --config configs/chorales.yaml $(ARGS)

test: $(VENV)/.installed-dev  ## install what is needed, then run every quick test
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(VENV)/.installed-dev  ## every test, the slow ones too
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed-dev  ## ruff's rules, ruff's format, mypy's types
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

benchmarks: $(VENV)/.installed-dev  ## measure again what benchmarks/results/ states (BENCHMARKS="a b" runs only those)
	@for name in $(BENCHMARKS); do echo "== benchmarks.$$name"; $(PY) -m benchmarks.$$name $(ARGS) || exit 1; done

clean:  ## remove the environment, caches and builds; runs/ stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The environment. A stamp per flavour: nothing is installed twice unless pyproject.toml or the pins change.

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing musictrain into $(VENV): some minutes the first time, most of them torch."
	$(INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "Installing musictrain and what its tests need into $(VENV): some minutes the first time, most of them torch."
	$(INSTALL) -e ".[dev]"
	@touch $(VENV)/.installed $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "make: no '$(PYTHON)' on this machine. Install Python 3.11 or newer, or name one: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: '$(PYTHON)' is $$($(PYTHON) -V 2>&1), and musictrain needs Python 3.11 or newer. Name another: make PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "make: '$(PYTHON)' cannot make virtual environments. On Debian and Ubuntu: apt install python3-venv"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@
