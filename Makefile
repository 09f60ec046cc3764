# Everything one does with hmoe, from a fresh clone. `make` lists it.
# The environment in .venv is made on first use and again whenever the lock changes.

TORCH   := 2.13.0
UV      := 0.13.9
SWEEP   ?= hierarchy
BENCH   ?= layer routing train sweep
ARGS    ?=
BIN     := .venv/bin
READY   := .venv/.ready
SUPPORTED := import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))
PYTHON  ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
             $$p -c '$(SUPPORTED)' >/dev/null 2>&1 && { echo $$p; break; }; done)

# Without byte code every command spends ten seconds more on its imports.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup sweep test test-slow check format ui report bench lock clean

help: ## List the targets
	@echo "usage: make TARGET [SWEEP=name] [BENCH=suites] [ARGS='more arguments'] [PYTHON=python3.x]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY) ## Make .venv from the lock (every target below does so when needed)

sweep: $(READY) ## Run the study SWEEP (default: hierarchy), confirm it, write its report
	$(BIN)/hmoe sweep sweep=$(SWEEP) $(ARGS)

report: $(READY) ## Write the report of the study SWEEP from its stored runs
	$(BIN)/hmoe report sweep=$(SWEEP) $(ARGS)

ui: $(READY) ## Browse the runs in MLflow on this machine
	$(BIN)/hmoe ui $(ARGS)

bench: $(READY) ## Measure ratios side by side, of the suites in BENCH (an hour; one: BENCH=layer)
	$(BIN)/hmoe bench $(BENCH) $(ARGS)

test: $(READY) ## Run the quick tests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(ARGS)

test-slow: $(READY) ## Run the slow tests
	$(BIN)/python -m pytest -m slow $(ARGS)

check: $(READY) ## Check format, lint, room imports and types; changes nothing
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/mypy

format: $(READY) ## Format the code and mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch and its GPU libraries stay out of the lock: which build is right depends on the machine.
lock: $(READY) ## Write requirements.lock anew (ARGS=--upgrade takes newer versions)
	cp requirements.lock .venv/lock
	echo 'torch==$(TORCH)' | $(BIN)/uv pip compile pyproject.toml - --extra dev --quiet $(ARGS) \
	  --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --no-annotate \
	  --custom-compile-command 'make lock' --output-file .venv/lock
	awk '/^[^ ]/ {keep = !/^(torch==|triton==|nvidia-|cuda-)/} keep' .venv/lock > requirements.lock

clean: ## Remove caches and build output; keeps runs/, reports/ and .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . \( -path ./.venv -o -path ./runs \) -prune -o -name __pycache__ -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "hmoe needs Python 3.11, 3.12 or 3.13 with venv;" \
	  "none found. Give one by: make setup PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "[1/4] Environment .venv ($(PYTHON))"
	@$(BIN)/pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@echo "[2/4] torch $(TORCH), the longest download"
	@$(BIN)/pip install -qq --disable-pip-version-check torch==$(TORCH) uv==$(UV)
	@echo "[3/4] The locked packages, byte-compiled"
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --compile-bytecode --no-deps \
	  --require-hashes --requirements requirements.lock
	@echo "[4/4] hmoe itself"
	@$(BIN)/pip install -qq --disable-pip-version-check --no-deps --editable .
	@$(BIN)/python -m compileall -q hmoe
	@touch $@
	@echo "Ready. Next: make test, make sweep"
