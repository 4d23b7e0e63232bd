# One word each. `make serve` and `make test` set up whatever is missing first; everything else here is for people who change the code.
# PYTHON=...  the interpreter that .venv is made with (3.11 to 3.13)        ARGS=...  further arguments of the command
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
PEERS ?= mlserver litserve bentoml
LOAD_SECONDS ?= 30
SANITIZERS ?= address,undefined

.PHONY: help setup serve demo-monitoring test test-slow check sanitize bench bench-gpu bench-judge bench-rollout bench-records bench-monitoring load wheel image fresh protocol clean

help:
	@echo 'make serve | demo-monitoring | test | check | bench | bench-gpu | bench-judge | bench-rollout | bench-records | bench-monitoring | load | wheel | image | fresh | sanitize | clean; see README.md'

setup:
	@PYTHON=$(PYTHON) tools/setup.sh

# Writes the demo repository once, then serves it.
serve: setup
	@[ -d $(DEMO) ] || $(BIN)/headrace init $(DEMO) --demo
	@exec $(BIN)/headrace serve $(DEMO) $(ARGS)

# A broken scanner: drift, retraining, gate, rollout, promotion, in two minutes; docs/monitoring-story.md. ARGS='--quick --folder DIR'.
demo-monitoring: setup
	$(BIN)/python -m serve.demo.story $(ARGS)

test: setup
	@PYTHON=$(PYTHON) tools/client_venvs.sh
	$(BIN)/python -m pytest $(ARGS)

test-slow: setup
	@PYTHON=$(PYTHON) tools/client_venvs.sh
	$(BIN)/python -m pytest -m 'not gpu' $(ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/stubtest serve._core --mypy-config-file pyproject.toml --allowlist tools/stubtest-allowlist.txt
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint ext
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_nogil.py
	$(BIN)/python tools/generate_protocol.py --check
	$(BIN)/python tools/generate_schemas.py --check
	$(BIN)/python tools/generate_rollout_diagram.py --check

# The native suite under ASan and UBSan; SANITIZERS=thread for TSan.
sanitize: setup
	tools/sanitize.sh $(SANITIZERS) $(ARGS)

# Beside floor.c, and beside MLServer, LitServe and BentoML, each in a venv of its own. PEERS= leaves those three out.
bench: setup
	@tools/debian.sh bench
	@$(if $(PEERS),PYTHON=$(PYTHON) loadtests/peers/setup.sh $(PEERS))
	$(BIN)/python -m loadtests.bench $(ARGS)

# The raw ceiling of ONNX Runtime on a GPU against what is served. Needs [gpu] in .venv instead of [cpu].
bench-gpu: setup
	@tools/debian.sh bench
	$(BIN)/python -m loadtests.bench --device cuda:0 --cases compute images $(ARGS)

# The judge in simulated rollouts: false rollbacks, requests until a bad candidate is taken back; ARGS=--quick. No server involved.
bench-judge: setup
	$(BIN)/python -m loadtests.judge $(ARGS)

# Rollouts on running servers under wrk and h2load, 12 minutes; ARGS='split canaries' for some of it, ARGS=--quick for a few of everything.
bench-rollout: setup
	@tools/debian.sh bench
	$(BIN)/python -m loadtests.rollout $(ARGS)

# The mathematics of monitoring on published data and streams, 3 minutes; no server involved. ARGS='car-loans clean --quick'.
bench-monitoring: setup
	@tools/datasets.sh
	$(BIN)/python -m loadtests.monitoring $(ARGS)

# Recording on running servers: what it costs, and what kills and full disks lose (as root: it mounts disks in memory). ARGS='cost kills disks --quick'.
bench-records: setup
	@tools/debian.sh bench
	@$(if $(PEERS),PYTHON=$(PYTHON) loadtests/peers/setup.sh bentoml)
	$(BIN)/python -m loadtests.records $(ARGS)

load: setup
	$(BIN)/python -m loadtests.run --seconds $(LOAD_SECONDS) $(ARGS)

wheel: setup
	PYTHON=$(PYTHON) tools/wheel.sh

image:
	@tools/debian.sh image
	tools/image.sh $(ARGS)

fresh:
	@tools/debian.sh fresh
	tools/fresh.sh $(ARGS)

protocol: setup
	$(BIN)/python tools/generate_protocol.py

clean:
	rm -rf build dist reports *.egg-info $(DEMO) .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find serve -name '*.so' -delete
	rm -f .venv/headrace-build.stamp
