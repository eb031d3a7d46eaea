# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv first if it is not there.
# PIP_ARGS passes options to every pip call, e.g. for a CPU build of torch.

PYTHON ?= python3
BIN := .venv/bin
# All GPUs, or two CPU ranks.
RANKS ?= $(shell $(BIN)/python -c 'import torch; print(torch.cuda.device_count() or 2)')

# Both models see the same examples in every step, and are probed while they train.
DEMO := packing.reserve_branches=true probe.every=40

.PHONY: setup demo test lint lm-eval

setup: $(BIN)/.complete

# torch first: the constraint keeps every later package from choosing another build of it.
$(BIN)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	$(BIN)/pip install --quiet $(PIP_ARGS) --constraint constraints.txt --editable '.[dev]'
	touch $@

# Two models from the same examples, with and without the objective; one is fine-tuned and answers; both are probed.
demo: setup
	bash launch/pretrain.sh --num_gpus $(RANKS) $(DEMO)
	bash launch/pretrain.sh --num_gpus $(RANKS) $(DEMO) objective.lambda=0 run.folder=runs/demo-plain
	$(BIN)/python -m finetune.demo_data runs/demo-reviews
	bash launch/finetune.sh --num_gpus $(RANKS) configs/finetune/demo.yaml
	$(BIN)/python -m finetune.evaluate runs/demo-finetuned/export --data runs/demo-reviews/test.jsonl
	bash launch/probe.sh --num_gpus $(RANKS) mixed=runs/demo plain=runs/demo-plain --data reviews --out runs/demo-report

test: setup lint
	HF_HUB_OFFLINE=1 DS_ACCELERATOR=cpu $(BIN)/python -m pytest $(PYTEST_ARGS)

# For one test: the evaluation harness, in an environment of its own.
lm-eval: .venv-lm-eval/.complete

.venv-lm-eval/.complete: constraints.txt
	$(PYTHON) -m venv .venv-lm-eval
	.venv-lm-eval/bin/pip install --quiet $(PIP_ARGS) --constraint constraints.txt torch
	.venv-lm-eval/bin/pip install --quiet $(PIP_ARGS) --constraint constraints.txt 'lm_eval[hf]' sentencepiece
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
