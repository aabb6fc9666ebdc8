# Everything a fresh checkout needs, in one place.  `make help` lists the targets.
#
# Stamps in .venv remember what is set up; a second run does it again only when pyproject.toml or constraints.txt changed.

SHELL := /bin/bash
# The tests start hundreds of processes: each would compile everything it imports.
unexport PYTHONDONTWRITEBYTECODE
PY := .venv/bin/python
ARGS ?=
PYTEST := $(PY) -m pytest
PYTEST_JOBS ?= 2
VENV_READY := .venv/.ready
ZOOKEEPER_READY := .venv/.zookeeper

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

##@ Start here
.PHONY: help
help: ## this list
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@/ { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: demo
demo: $(VENV_READY) $(ZOOKEEPER_READY) ## set up, start a cluster, kill its parts under load, prove nothing was lost
	@$(PY) -m stele.lab.demo $(ARGS)

.PHONY: test
test: $(VENV_READY) ## set up, lint, type check, every test; the container tests where a Docker engine answers
	@$(MAKE) --no-print-directory -j2 lint type
	@$(MAKE) --no-print-directory test-processes
	@$(MAKE) --no-print-directory test-e2e

.PHONY: up
up: $(VENV_READY) $(ZOOKEEPER_READY) ## start a cluster of real processes under .stele/
	@.venv/bin/stele cluster up $(ARGS)

.PHONY: down
down: $(VENV_READY) ## stop that cluster; its data stays
	@.venv/bin/stele cluster down $(ARGS)

##@ Working on it
.PHONY: setup
setup: $(VENV_READY) $(ZOOKEEPER_READY) ## virtual environment, dependencies, ZooKeeper

.PHONY: proto
proto: $(VENV_READY) ## generate services/pb from proto/
	@PYTHON=$(PY) proto/generate

.PHONY: docs
docs: $(VENV_READY) ## write the pages that are made from code
	@$(PY) docs/reference/generate

.PHONY: lint
lint: $(VENV_READY) ## ruff: rules and format; the pages made from code say what the code says
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet . || { echo "not formatted; run: $(PY) -m ruff format ."; exit 1; }
	@$(PY) docs/reference/generate --check

.PHONY: type
type: $(VENV_READY) ## mypy, strict
	@$(PY) -m mypy

.PHONY: test-processes
# Files in their order: the long ones, of fault and simulation, come before the many short ones, so that no worker ends alone with one.
test-processes: $(VENV_READY) $(ZOOKEEPER_READY) ## every test that needs no Docker engine
	@$(PYTEST) tests --ignore=tests/e2e -n $(PYTEST_JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

.PHONY: test-unit
test-unit: $(VENV_READY) ## pure cores, storage, layout
	@$(PYTEST) tests/unit $(ARGS)

.PHONY: test-integration
test-integration: $(VENV_READY) $(ZOOKEEPER_READY) ## parts against a real ZooKeeper
	@$(PYTEST) tests/integration $(ARGS)

.PHONY: test-fault
test-fault: $(VENV_READY) $(ZOOKEEPER_READY) ## whole clusters, killed and paused
	@$(PYTEST) tests/fault $(ARGS)

.PHONY: test-e2e
test-e2e: $(VENV_READY) $(ZOOKEEPER_READY) ## the wheel in empty environments; the cluster in containers, where a Docker engine answers
	@$(PYTEST) tests/e2e $(ARGS)

.PHONY: sim
sim: $(VENV_READY) ## replicated groups under virtual time: make sim RUNS=500 SEED=0 NODES=0
	@$(PY) -m tests.simulation --runs $(or $(RUNS),500) --seed $(or $(SEED),0) --nodes $(or $(NODES),0) $(ARGS)

.PHONY: sim-cluster
sim-cluster: $(VENV_READY) ## whole clusters under virtual time: make sim-cluster RUNS=200 SEED=0
	@$(PY) -m tests.simulation.cluster --runs $(or $(RUNS),200) --seed $(or $(SEED),0) $(ARGS)

.PHONY: sim-proof
sim-proof: $(VENV_READY) ## the simulator finds what is wrong with each correction switched off
	@$(PY) -m tests.simulation.selfproof $(ARGS)

.PHONY: sim-cluster-proof
sim-cluster-proof: $(VENV_READY) ## the simulated cluster finds what is wrong on purpose, and nothing without it: make sim-cluster-proof RUNS=2000 SEED=0
	@$(PY) -m tests.simulation.cluster.proof --runs $(or $(RUNS),2000) --seed $(or $(SEED),0) $(ARGS)

.PHONY: crash
crash: $(VENV_READY) ## a replica's storage, killed with -9 at work: make crash RUNS=1000 SEED=0
	@$(PY) -m tests.fault.crash --runs $(or $(RUNS),1000) --seed $(or $(SEED),0) $(ARGS)

.PHONY: power-loss
power-loss: $(VENV_READY) ## a replica's storage on a disk that forgets: make power-loss RUNS=1000 SEED=0
	@$(PY) -m tests.fault.power_loss --runs $(or $(RUNS),1000) --seed $(or $(SEED),0) $(ARGS)

.PHONY: chaos
chaos: $(VENV_READY) $(ZOOKEEPER_READY) ## random faults on a cluster of processes under load: make chaos MINUTES=10 SEED=0
	@$(PY) -m stele.lab.chaos --minutes $(or $(MINUTES),10) --seed $(or $(SEED),0) $(ARGS)

.PHONY: takeover
takeover: $(VENV_READY) $(ZOOKEEPER_READY) ## owners of bundles, killed with -9 and paused: make takeover KILLS=30 PAUSES=200
	@$(PY) -m tests.fault.takeover --kills $(or $(KILLS),30) --pauses $(or $(PAUSES),200) $(ARGS)

.PHONY: rolling-restart
rolling-restart: $(VENV_READY) $(ZOOKEEPER_READY) ## a cluster restarted process by process under load: make rolling-restart RESTARTS=3
	@$(PY) -m tests.fault.rolling --restarts $(or $(RESTARTS),3) $(ARGS)

.PHONY: zookeepers
zookeepers: $(VENV_READY) $(ZOOKEEPER_READY) ## three ZooKeepers under load: killed, restarted, sessions expired
	@$(PY) -m tests.fault.zookeepers $(ARGS)

.PHONY: moving
moving: $(VENV_READY) $(ZOOKEEPER_READY) ## a datanode decommissioned, and one killed for good, under load: make moving MIB=32
	@$(PY) -m tests.fault.moving --mib $(or $(MIB),32) $(ARGS)

.PHONY: fuzz
fuzz: $(VENV_READY) ## the decoders of what stands on disk, led by coverage: make fuzz SECONDS=60
	@$(PY) -c 'import atheris' 2>/dev/null || $(PY) -m pip install --quiet --disable-pip-version-check -r tests/fuzz/requirements.txt
	@$(PY) -m tests.fuzz --seconds $(or $(SECONDS),60) $(ARGS)

.PHONY: bench
bench: $(VENV_READY) ## speed against stock PySyncObj and this machine's floor: make bench ARGS="--help"
	@$(PY) -m benchmarks $(ARGS)

.PHONY: clean
clean: ## remove the environment and everything generated; a running cluster's data stays
	@rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- stamps ---------------------------------------------------------------------------------------------------------

$(VENV_READY): pyproject.toml constraints.txt
	@deploy/setup/venv .venv $(PYTHON)
	@touch $@

$(ZOOKEEPER_READY): | $(VENV_READY)
	@$(PY) -m stele.local.zookeeper --ensure
	@touch $@
