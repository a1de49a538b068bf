# Everything but 'make install' happens in .venv, build and dist. 'make help' lists the targets.

PYTHON ?= python3
# Much of the time of a test is waiting: more workers than processors are of use, up to a point.
WORKERS ?= 4
PYTEST_ARGS ?=
SOAK_ARGS ?=
FUZZ_SECONDS ?= 120
# Where this is set, each of many thousand processes would compile all that it runs.
unexport PYTHONDONTWRITEBYTECODE

TOOLS := qemu-system-x86 qemu-utils libnbd0
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help tools venv install lock deb bundle test-deb demo play quick moments test suite test-thorough test-slow soak fuzz lab lab-slow lab-load lab-shell bench lint format clean

help: ## List the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1\t\2/' | expand -t 12
	@echo "Variables: PYTHON=$(PYTHON)  WORKERS=$(WORKERS) (processes that run tests)  PYTEST_ARGS=..."

venv: $(STAMP) ## Make .venv with the program and its development tools

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || \
		{ echo "error: there is no $(PYTHON): apt-get install python3 python3-venv, or make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
		{ echo "error: $(PYTHON) cannot make environments: apt-get install python3-venv" >&2; exit 1; }
	@echo "making $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

install: bundle ## As root, on a dom0 without a package: what `make bundle` builds (docs/install.md)
	@rm -rf build/bundle && mkdir -p build/bundle
	@tar -xzf dist/xenmoved-*-linux-x86_64.tar.gz -C build/bundle
	@build/bundle/xenmoved-*/install

lock: $(STAMP) ## Choose anew the packages that are shipped: requirements.lock, with hashes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml

deb: $(STAMP) ## Build the packages for Debian 12 and 13, in dist
	@$(BIN)/python -m package.deb

bundle: $(STAMP) ## Build the archive for other distributions, in dist
	@rm -f dist/xenmoved-*-linux-x86_64.tar.gz
	@$(BIN)/python -m package.bundle

test-deb: $(STAMP) ## As root: install packages and archive in fresh systems without a network: minutes
	@$(BIN)/python -m pytest -vv --timeout=3600 $(PYTEST_ARGS) tests/roots

demo: $(STAMP) ## Move a guest between two emulated hosts on this machine
	@$(BIN)/python -m xenmoved.sandbox.demo

play: $(STAMP) ## Three emulated hosts with guests, and a shell to try things (docs/playground.md)
	@$(BIN)/python -m xenmoved.sandbox.play

# Both go to their ends, so that one run shows everything; the types take one processor only.
test: $(STAMP) ## Check style and types, run all tests
	@$(MAKE) --no-print-directory --keep-going --jobs=2 lint suite

quick: $(STAMP) ## Check style and types, run the tests that take no time: seconds
	@$(MAKE) --no-print-directory --keep-going --jobs=2 lint moments

moments: $(STAMP)
	@$(BIN)/python -m pytest -m 'not (slow or thorough or long or root)' $(PYTEST_ARGS) tests/unit tests/property

# As root on Debian, what some tests need and would else be skipped without.
tools:
	@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! { \
		command -v qemu-system-x86_64 qemu-img qemu-nbd && /sbin/ldconfig -p | grep libnbd.so.0; } >/dev/null; then \
		echo "installing $(TOOLS)"; \
		apt-get install -qq -y --no-install-recommends $(TOOLS) >/dev/null || echo "tests of QEMU are skipped"; fi

suite: $(STAMP) tools
	@# Once for all workers, which would each take as long: it keeps the tests as pytest runs them.
	@$(BIN)/python -m pytest --collect-only -qq $(PYTEST_ARGS) >/dev/null || true
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(PYTEST_ARGS)

test-thorough: $(STAMP) tools ## Run what takes seconds each, and more cases of what make test tries: minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m 'thorough and not slow' $(PYTEST_ARGS)

test-slow: $(STAMP) ## Run the tests that are left out: more of the crash matrix, more repetitions: minutes
	@$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m slow $(PYTEST_ARGS)

soak: $(STAMP) ## Disturb 500 migrations at random moments: half an hour; as root, journals too (SOAK_ARGS=...)
	@$(BIN)/python -m tests.soak $(SOAK_ARGS)

fuzz: $(STAMP) ## Look for configurations that xl or xend read as more than was vetted: FUZZ_SECONDS for each form
	@FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -k nothing_is $(PYTEST_ARGS) tests/unit/toolstack

lab: $(STAMP) ## As root: the tests with two real Xen hosts in QEMU (docs/lab.md)
	@$(BIN)/python -m pytest -vv --capture=no --timeout=3600 $(PYTEST_ARGS) tests/lab

lab-slow: $(STAMP) ## As root: all of them, every disturbance, every kind of volume: hours
	@$(BIN)/python -m pytest -vv --capture=no --timeout=3600 -m '' $(PYTEST_ARGS) tests/lab

lab-load: $(STAMP) ## As root: PostgreSQL, fio and a file server in a guest that moves: an hour
	@$(BIN)/python -m tests.lab.loads

lab-shell: $(STAMP) ## As root: boot these two hosts and leave them to you
	@$(BIN)/python -m tests.lab.shell

lint: $(STAMP) ## Check style and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP) ## Correct the style where that can be done by itself
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

bench: $(STAMP) ## Measure the speed of transfers
	@$(BIN)/python -m tests.bench
	@$(BIN)/python -m tests.bench.images

clean: ## Remove .venv and everything else that was made
	rm -rf $(VENV) build dist bench-results lab-results .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
