# make demo: the main job, end to end, on the emulator.   make test: all tests.
# Each builds .venv from the hash-pinned requirements.lock by itself, once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test bench lint schema lock clean help

help:            ## this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/'

demo: $(READY)   ## the main job, end to end, on the emulator
	@$(BIN)/flow-worker demo

test: $(READY) lint  ## all tests, after types, style and layer rules
	$(BIN)/python -m pytest -n 4 --dist loadfile

bench: $(READY)  ## how fast worker and emulator are, and what one flow's trouble costs the others (25 minutes)
	$(BIN)/python -m bench.worker
	$(BIN)/python -m bench.worker --matrix --rounds 1 --latencies 0 --who floor --who flow-worker
	$(BIN)/python -m bench.worker --rounds 1 --latencies 0 --pause 200 --lanes 100 --who flow-worker --who "flow-worker twice"
	$(BIN)/python -m bench.worker.steady
	$(BIN)/python -m bench.emulator
	$(BIN)/python -m bench.noisy_neighbour

lint: $(READY)   ## types, style and layer rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

schema: $(READY) ## regenerate contracts/schema from the models
	$(BIN)/python -m contracts.schema

lock:            ## resolve pyproject.toml again into the two lock files (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" --extra dev pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --custom-compile-command "make lock" -c requirements.lock pyproject.toml -o requirements-worker.lock

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

clean:           ## remove what the targets above made
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
