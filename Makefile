# All that a person or CI runs here; `make` alone lists it.

# The interpreter that .venv is made with: make PYTHON=python3.12 test
PYTHON ?= python3
BIN := .venv/bin
# Named after the interpreter, so that another PYTHON makes another .venv.
READY := .venv/ready$(subst /,-,-$(PYTHON))

.DEFAULT_GOAL := help
.PHONY: help demo demo-connectors test test-deploy test-kubernetes bundle chaos bench bench-full docs format

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

demo: $(READY) ## See the worker run against the built-in sandbox (DEMO_SECONDS=20 make demo stops by itself)
	@$(BIN)/product-live-worker run --sandbox --demo

demo-connectors: $(READY) ## See each connector start a job of another system and wait for it, on fakes of those systems
	@PYTHONPATH=tests $(BIN)/python -m support.connectors_demo

test: $(READY) ## Run all that CI runs: format, lint, types, import rules, tests
	@$(BIN)/ruff format --check --quiet . || { echo "make format mends this."; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --no-cache
	@PYTHONPATH=tests $(BIN)/python -m support.browser
	@$(BIN)/python -m pytest -q -n 2 --cov --cov-report=term
	@echo "All is well."

test-deploy: $(READY) ## Run deploy/ on the real thing: systemd, containers, monitoring (Debian, as root; up to 20 minutes)
	@$(BIN)/python -m pytest -q -n 2 --dist loadfile tests/deploy

bundle: $(READY) ## Make an archive to install from without a package index: make bundle PLUGINS="./my-plugin other==1.2"
	@$(BIN)/python deploy/bundle.py $(PLUGINS)

test-kubernetes: $(READY) ## Run deploy/kubernetes in a real cluster (Debian 12, as root; eleven minutes, and once eight to build Kubernetes)
	@$(BIN)/python -m pytest -q -n 0 tests/deploy/kubernetes

chaos: $(READY) ## Kill the worker 60 times under every fault, and check that nothing is lost (up to ten minutes)
	@PYTHONPATH=tests $(BIN)/python -m support.chaos

bench: $(READY) ## Measure what benchmarks/README.md tells of, in scaled time (ten minutes)
	@$(BIN)/python -m benchmarks

bench-full: $(READY) ## The same on the real window of 60 s (over an hour)
	@$(BIN)/python -m benchmarks --full

docs: $(READY) ## Build the documentation for handlers' authors into build/docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "Open build/docs/index.html."

format: $(READY) ## Format the code and mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

old = $(shell $(PYTHON) -c "import sys; print(sys.version_info < (3, 11))" 2>/dev/null)
bare = $(shell $(PYTHON) -c "import ensurepip, venv" 2>/dev/null || echo True)

# pip reads the user's own index, proxy and certificates; its words are shown only when it fails.
$(READY): pyproject.toml constraints.txt
	$(if $(filter False,$(old)),,$(error $(PYTHON) is $(if $(old),too old,not there): install Python 3.11 or later, or \
	  name another one, as in: make PYTHON=python3.12 $(MAKECMDGOALS)))
	$(if $(bare),$(error $(PYTHON) lacks its venv module: install it (on Debian and Ubuntu: apt install python3-venv)))
	@echo "Setting up .venv with $(PYTHON); this takes about a minute, once."
	@$(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev]' >.venv/pip.log 2>&1 || { cat .venv/pip.log >&2; exit 1; }
	@touch $@
