# Two commands on a fresh machine: `make demo` and `make test`. Both build .venv first if it is not there.
# PIP_ARGS passes options to every pip call, e.g. for a CPU build of torch.
# constraints.txt pins every package, for .venv and .venv-lm-eval alike. To renew it: `make constraints`, then `make test`.

PYTHON ?= python3
BIN := .venv/bin
# The torch that tests ran with; a looser range would let other packages choose another one.
# With a driver that needs another: `make constraints TORCH=VERSION`.
TORCH ?= 2.13.0
# For what is installed, and for what builds packages that come as source.
PINNED := PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
HARNESS := 'lm_eval[hf]' sentencepiece

# All GPUs, or two CPU ranks.
RANKS ?= $(shell $(BIN)/python -c 'import torch; print(torch.cuda.device_count() or 2)')

# Both models see the same examples in every step, and are probed while they train.
DEMO := packing.reserve_branches=true probe.every=40

# Tests run in so many processes, a file in one of them; by default one for each core, of which a rank uses one.
WORKERS ?= logical
PYTEST := -m pytest --numprocesses $(WORKERS) --maxprocesses 8 --dist loadfile --no-loadscope-reorder

.PHONY: setup demo check test test-newest lint lm-eval constraints

setup: $(BIN)/.complete

# torch first, so that no other package's requirements decide its build.
$(BIN)/.complete: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PINNED) $(BIN)/pip install --quiet $(PIP_ARGS) torch
	$(PINNED) $(BIN)/pip install --quiet $(PIP_ARGS) --editable '.[dev]'
	touch $@

# Two models from the same examples, with and without the objective; one is fine-tuned and answers; both are probed.
demo: setup
	bash launch/pretrain.sh --num_gpus $(RANKS) $(DEMO)
	bash launch/pretrain.sh --num_gpus $(RANKS) $(DEMO) objective.lambda=0 run.folder=runs/demo-plain
	$(BIN)/python -m finetune.demo_data runs/demo-reviews
	bash launch/finetune.sh --num_gpus $(RANKS) configs/finetune/demo.yaml
	$(BIN)/python -m finetune.evaluate runs/demo-finetuned/export --data runs/demo-reviews/test.jsonl
	bash launch/probe.sh --num_gpus $(RANKS) mixed=runs/demo plain=runs/demo-plain --data reviews --out runs/demo-report

# Before every commit: the tests of single functions.
check: setup lint
	$(BIN)/python $(PYTEST) -m 'not (slow or ranks or cluster or gpu)' $(PYTEST_ARGS)

test: setup lint
	$(BIN)/python $(PYTEST) $(PYTEST_ARGS)

# What the next fresh installation without constraints would bring (torch apart), so that we find its breaks first.
test-newest:
	$(PYTHON) -m venv --clear .venv-newest
	.venv-newest/bin/pip install --quiet $(PIP_ARGS) torch==$(TORCH)
	.venv-newest/bin/pip install --quiet $(PIP_ARGS) torch==$(TORCH) --editable '.[dev]'
	.venv-newest/bin/pip install --quiet $(PIP_ARGS) torch==$(TORCH) --upgrade deepspeed
	@sed 's/ .*//' constraints.txt > .venv-newest/pinned
	@echo 'not as in constraints.txt:'
	@.venv-newest/bin/pip freeze --exclude-editable | tr _ - | grep --ignore-case --line-regexp --fixed-strings \
		--invert-match --file .venv-newest/pinned || true
	DIPTYCH_ALLOW_UNTESTED=1 .venv-newest/bin/python $(PYTEST) $(PYTEST_ARGS)

# For one test: the evaluation harness, in an environment of its own.
lm-eval: .venv-lm-eval/.complete

.venv-lm-eval/.complete: constraints.txt
	$(PYTHON) -m venv .venv-lm-eval
	$(PINNED) .venv-lm-eval/bin/pip install --quiet $(PIP_ARGS) torch
	$(PINNED) .venv-lm-eval/bin/pip install --quiet $(PIP_ARGS) $(HARNESS)
	touch $@

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

# For every Python from 3.11 on and every platform.
constraints:
	$(PYTHON) -m venv .venv-uv
	.venv-uv/bin/pip install --quiet $(PIP_ARGS) --upgrade uv
	printf '%s\n' torch==$(TORCH) $(HARNESS) | .venv-uv/bin/uv pip compile --quiet --universal --python-version 3.11 \
		--upgrade --extra dev --annotation-style line --custom-compile-command 'make constraints' \
		--output-file constraints.txt pyproject.toml -
