# `make demo` runs the main job end to end on the emulator. `make test` runs all tests.
# Each target builds .venv itself from lock files with pinned hashes.
PYTHON ?= python3
MINUTES ?= 30
BIN := .venv/bin
DEMO_READY := .venv/.demo-ready
TEST_READY := .venv/.test-ready
PROJECTS := contracts/pyproject.toml worker/pyproject.toml emulator/pyproject.toml

# A pip outside the environment saves the seconds that it takes to install one inside.
OUTER_PIP := $(shell $(PYTHON) -m pip --version 2>/dev/null)
VENV := $(PYTHON) -m venv $(if $(OUTER_PIP),--without-pip,)
PIP := $(if $(OUTER_PIP),$(PYTHON) -m pip --python $(BIN)/python,$(BIN)/python -m pip) --disable-pip-version-check
LOCKED := --quiet --no-deps --require-hashes --only-binary :all:

# How `uv` resolves the pyproject files into lock files: for every platform, with hashes, without index addresses.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-package flow-contracts --no-emit-package flow-worker --no-emit-package servicebus-emulator \
	--custom-compile-command "make lock"

# A test suite starts some hundred processes, and each imports the worker, the emulator or a client. Without bytecode,
# which some images turn off, each compiles again what it imports: seconds instead of tenths.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test lint chaos bench schema lock clean help

help:            ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

demo: $(DEMO_READY)   ## run the main job end to end on the emulator
	@$(BIN)/flow-worker demo

test: $(TEST_READY) lint  ## check types, style and import rules, then run all tests
	$(BIN)/python -m pytest -n 6

lint: $(TEST_READY)   ## check types, style and import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/python -m pytest --collect-only -qq >.venv/collected.txt 2>&1 & collected=$$!; \
	echo $(BIN)/mypy && $(BIN)/mypy && { wait $$collected || { tail -n 40 .venv/collected.txt; exit 1; }; }
	$(BIN)/lint-imports --no-cache

bench: $(TEST_READY)  ## measure the worker, the emulator, the isolation between flows and hostile input (30 minutes)
	$(BIN)/python -m bench.worker
	$(BIN)/python -m bench.worker --matrix --rounds 1 --latencies 0 --subject floor --subject flow-worker
	$(BIN)/python -m bench.worker --rounds 1 --latencies 0 --flow-ms 200 --lanes 100 --subject flow-worker --subject "flow-worker twice"
	$(BIN)/python -m bench.worker.soak
	$(BIN)/python -m bench.journal
	$(BIN)/python -m bench.metrics
	$(BIN)/python -m bench.worker.telemetry
	$(BIN)/python -m bench.emulator
	$(BIN)/python -m bench.noisy_neighbour
	$(BIN)/python -m bench.hostile
	$(BIN)/python -m bench.gateway

chaos: $(TEST_READY)  ## run the storm of faults over both journals: MINUTES=30, SEED=a number that it printed
	$(BIN)/python -m tests.faults.storm --minutes $(MINUTES) $(if $(SEED),--seed $(SEED))

schema: $(DEMO_READY) ## generate contracts/schema and clients/connector from the models
	$(BIN)/python -m flow_contracts.schema contracts/schema
	$(BIN)/python -m tests.unit.docs.setting_descriptions
	$(BIN)/python -m flow_worker.gateway.connector clients/connector

lock:            ## resolve the dependencies into the lock files (needs uv)
	$(COMPILE) --group dev -o requirements.lock
	$(COMPILE) --group build -c requirements.lock -o requirements-build.lock
	$(COMPILE) --group demo -c requirements.lock -o requirements-demo.lock
	$(COMPILE) -c requirements.lock --extra otel worker/pyproject.toml -o requirements-worker.lock

# The demo needs no test tools. pip installs one package after the other on one processor, so three processes share the
# work: each half of the lock file, and our own packages. Python compiles a module to bytecode when it first imports it.
$(DEMO_READY): requirements-build.lock requirements-demo.lock $(PROJECTS)
	$(VENV) .venv
	$(PIP) install $(LOCKED) --no-compile -r requirements-build.lock
	@awk '/^[a-z]/ { odd = !odd } { print > (".venv/" (odd ? "odd" : "even") ".lock") }' requirements-demo.lock
	$(PIP) install --quiet --no-deps --no-compile --no-build-isolation -e contracts -e worker -e emulator & ours=$$!; \
	$(PIP) install $(LOCKED) --no-compile -r .venv/odd.lock & odd=$$!; \
	$(PIP) install $(LOCKED) --no-compile -r .venv/even.lock && wait $$odd && wait $$ours
	@touch $@

# The processes of the tests start at the same time, so bytecode is made before the first one, on all processors.
$(TEST_READY): requirements.lock $(DEMO_READY)
	$(PIP) install $(LOCKED) --no-compile -r requirements.lock
	$(BIN)/python -m ensurepip >/dev/null
	@$(BIN)/python -m compileall -q -j 0 .venv/lib bench contracts emulator worker >/dev/null || true
	@touch $@

clean:           ## remove everything that the targets above created
	rm -rf .venv build */build */*.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
