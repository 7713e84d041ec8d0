# Everything is set up from python3, make and a package index; the second run of a target is quick.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
FUZZ := $(VENV)/.ready-fuzz

.DEFAULT_GOAL := help
.PHONY: help demo test neighbours ethereum damage run check simulate mutate format docs clean fuzz hostile crashes soak bench

help:  ## show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(READY): setup.cfg pyproject.toml settled/version.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(DEV): $(READY)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

$(FUZZ): $(DEV)
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet --editable '.[dev,fuzz]'
	@touch $@

demo: $(READY)  ## two daemons settle with each other, one is killed and restarted; the books are compared
	$(BIN)/python -m settled.testing.demo

test: $(DEV)  ## run the tests, as many at once as there are processors
	$(BIN)/python -m pytest -q -n auto --dist worksteal

neighbours: $(DEV)  ## all tests of broken connectors, peers and engines, and 10,000 retries
	NEIGHBOURS=all $(BIN)/python -m pytest -q tests/neighbours

ethereum: $(DEV)  ## the Ethereum engine on two makes of chain: stopped at every wait, daemons killed 70 times (SEED=n; needs npm)
	ETHEREUM=all $(BIN)/python -m pytest -q -o faulthandler_timeout=900 tests/engines/ethereum
	ETHEREUM_NODE=hardhat $(BIN)/python -m pytest -q tests/engines/ethereum -k "sending or trouble or receiving"

damage: $(DEV)  ## damage database files in many more places than `make test` does
	SETTLED_DAMAGE_SAMPLES=$${SAMPLES:-60} $(BIN)/python -m pytest -q tests/damage

crashes: $(DEV)  ## kill it at every system call, fail every one, kill it 200 times (SEED=n; an hour)
	$(BIN)/python -m tests.crashes $(if $(SEED),--seed $(SEED))

soak: $(DEV)  ## an hour of steady load on two daemons: what grows? (SECONDS=n)
	$(BIN)/python -m tests.soak $(if $(SECONDS),--seconds $(SECONDS))

run: $(READY)  ## run one daemon, with the loopback engine unless SETTLED_ENGINE names another
	SETTLED_ENGINE=$${SETTLED_ENGINE:-loopback} $(BIN)/settled run

EXAMPLES ?= 1000
FUZZ_SECONDS ?= 600
CASES ?= 20000

fuzz: $(FUZZ)  ## schemathesis over a live daemon (EXAMPLES an operation), atheris on the parsers (FUZZ_SECONDS), the short lane against Hypercorn (CASES)
	$(BIN)/python -m tests.hostile.fuzz_api $(EXAMPLES)
	$(BIN)/python -m tests.hostile.fuzz_parsers $(FUZZ_SECONDS)
	$(BIN)/python -m tests.hostile.two_ways $(CASES)

hostile: $(DEV)  ## every attack on a live daemon, and what it costs a healthy client
	$(BIN)/python -m tests.hostile.campaign

bench: $(DEV)  ## settled beside its peers (ONLY=settlements,... ROUNDS=n SECONDS=n JSON=FILE PAGE=yes)
	$(BIN)/python -m benchmarks $(if $(ONLY),--only $(ONLY)) $(if $(ROUNDS),--rounds $(ROUNDS)) \
	    $(if $(SECONDS),--seconds $(SECONDS)) $(if $(JSON),--json $(JSON)) $(if $(PAGE),--page)

check: $(DEV)  ## ruff, mypy --strict, and that the docs say what the program does
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m tests.docs --check

simulate: $(DEV)  ## run the whole under simulated faults, SEEDS=1000 runs from FIRST=1 on
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) --first $(or $(FIRST),1)

docs: $(DEV)  ## write the generated parts of the docs anew
	$(BIN)/python -m tests.docs

format: $(DEV)  ## lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

mutate: $(DEV)  ## change the code a little, again and again: do the tests notice? (FILES= SAMPLE= SEED= JOBS=)
	nice -n 15 $(BIN)/python -m tests.mutation $(FILES) $(if $(SAMPLE),--sample $(SAMPLE)) \
	    $(if $(SEED),--seed $(SEED)) $(if $(JOBS),--jobs $(JOBS)) $(OPTIONS)

clean:  ## remove what was built, cached or left by a demo
	rm -rf $(VENV) build dist *.egg-info .demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .fuzz .mutation .bench
	rm -rf benchmarks/peer/node_modules tests/engines/ethereum/*/node_modules
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
