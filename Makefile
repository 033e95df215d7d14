# copyd: `make demo` shows it, `make test` checks it. Everything lives in .venv; nothing outside this folder is touched.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KERNELS := $(wildcard copyd/_fast/*.pyx) $(wildcard copyd/_fast/*.pxd) $(wildcard copyd/_fast/*.h)
DEMO ?=
PYTEST ?=

.PHONY: help demo test build lint typecheck contracts unit clients-venv bench sim clean

help:
	@echo "make demo          the main job on this machine, no account needed   (DEMO='--followers 200 --seconds 20')"
	@echo "make test          everything: lint, types, contracts, tests          (PYTEST='tests/core -x')"
	@echo "make bench         the benchmark suites at full size"
	@echo "make sim           the long runs of the simulator: hours   (SEEDS=1000000 SEEDS_B=20000 KILLS=2000 IMAGES=72000)"
	@echo "make build         .venv with copyd compiled in place"
	@echo "make clean         remove what the other targets made"

demo: build
	@echo "==> copyd demo $(DEMO)"
	@$(BIN)/copyd demo $(DEMO)

test: lint typecheck contracts unit
	@echo "==> all checks passed"

# --- set-up ------------------------------------------------------------------------------------------------------------

$(VENV)/bin/python:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "copyd needs Python 3.11 or newer, and $(PYTHON) is not there: apt install python3 python3-venv python3-dev"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "copyd needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: apt install python3-venv"; exit 1; }
	@command -v $${CC:-gcc} >/dev/null 2>&1 || { echo "a C compiler is missing: apt install gcc"; exit 1; }
	@$(PYTHON) -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_paths()["include"]) / "Python.h").exists())' || { echo "Python's headers are missing: apt install python3-dev"; exit 1; }
	@echo "==> making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml setup.py $(KERNELS)
	@echo "==> installing copyd and compiling its kernels (a minute or two)"
	@$(BIN)/pip install --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-test: $(VENV)/bin/python pyproject.toml setup.py $(KERNELS)
	@echo "==> installing copyd with what the checks need and compiling its kernels (a minute or two)"
	@$(BIN)/pip install --disable-pip-version-check -e '.[test]'
	@touch $(VENV)/.installed $@

build: $(VENV)/.installed

# Unmodified third-party clients trade on the simulated exchange in the tests; they pin other versions of our packages.
clients-venv: .venv-clients/.installed

.venv-clients/.installed: tests/exchange/clients-requirements.txt
	@echo "==> making .venv-clients for the third-party clients"
	@$(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/pip install --disable-pip-version-check -r $<
	@# it shares the folder binance/ with the connectors, whose empty __init__.py must not be the one that stays
	@.venv-clients/bin/pip install --disable-pip-version-check --force-reinstall --no-deps $$(grep '^python-binance' $<)
	@touch $@

# --- checks ------------------------------------------------------------------------------------------------------------

lint: $(VENV)/.installed-test
	@echo "==> ruff, cython-lint"
	@$(BIN)/ruff check .
	@PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint --max-line-length 130 copyd/_fast

typecheck: $(VENV)/.installed-test
	@echo "==> mypy, stubs of the kernels"
	@$(BIN)/mypy copyd
	@$(BIN)/python -m mypy.stubtest --allowlist tests/stubtest-allowlist.txt --ignore-unused-allowlist \
		$(patsubst copyd/_fast/%.pyx,copyd._fast.%,$(wildcard copyd/_fast/*.pyx))

contracts: $(VENV)/.installed-test
	@echo "==> import contracts"
	@PATH="$(CURDIR)/$(BIN):$$PATH" lint-imports --no-logo

unit: $(VENV)/.installed-test .venv-clients/.installed
ifeq ($(strip $(PYTEST)),)
	@echo "==> tests, three files at a time (many wait for sockets), the longest first"
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests/sim tests --ignore=tests/e2e --ignore=tests/bench
	@echo "==> tests of the measurements, by themselves"
	@$(BIN)/python -m pytest tests/bench bench
	@echo "==> tests of the whole daemon, two at a time: they mostly wait"
	@$(BIN)/python -m pytest -n 2 tests/e2e
else
	@echo "==> tests"
	@$(BIN)/python -m pytest $(PYTEST)
endif

bench: $(VENV)/.installed-test
	@$(BIN)/copyd bench stages
	@$(BIN)/copyd bench fanout --followers 1000
	@$(BIN)/copyd bench fanout --followers 10000
	@$(BIN)/copyd bench compare

SEEDS ?= 1000000
SEEDS_B ?= 20000
KILLS ?= 2000
IMAGES ?= 72000

sim: $(VENV)/.installed-test
	@echo "==> level A: $(SEEDS) histories around the core, 1 in 100 twice, every crash point, every known-bad variant"
	@$(BIN)/copyd sim --seeds 0..$(SEEDS) --profile bulk --json sim-a.json
	@$(BIN)/copyd sim --seeds 0..$$(($(SEEDS) / 100)) --profile bulk --twice
	@$(BIN)/copyd sim --crash-sweep --pairs --stride 10
	@$(BIN)/copyd sim --mutants
	@echo "==> level B: $(SEEDS_B) histories of the adapters on a virtual-time loop"
	@$(BIN)/copyd sim --level b --seeds 0..$(SEEDS_B) --json sim-b.json
	@echo "==> level C: the real daemon, the real disk"
	@$(BIN)/copyd sim --level c --kills $(KILLS)
	@$(BIN)/copyd sim --level c --images $(IMAGES)
	@$(BIN)/copyd sim --level c

clean:
	rm -rf $(VENV) .venv-clients build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks .import_linter_cache
	rm -f copyd/_fast/*.so copyd/_fast/*.c copyd/_fast/*.html
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
