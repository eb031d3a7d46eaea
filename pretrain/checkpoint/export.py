"""From a checkpoint to a plain Hugging Face folder.

The folder opens with ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``, without Diptych. A
model with Python code of its own is exported together with that code. The export runs it, so ``--trust-remote-code``
must be given. Before the folder gets its name, it is loaded and its logits are compared with those that the engine
stored in the checkpoint.
"""

import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain import __version__
from pretrain.checkpoint.checkpoints import Checkpoints, RunState, read_canary, read_state, read_weights
from pretrain.checkpoint.folder import checkpoint_name
from pretrain.config.model import LoraConfig
from pretrain.config.sections import CheckpointConfig
from pretrain.data.older_transformers import add_older_model_names, add_older_tokenizer_names
from pretrain.model.build import build_model, plain_attention
from pretrain.model.canary import TOLERANCE, compare, measure
from pretrain.model.existing_weights import load_existing
from pretrain.model.fixed_state import fixed_state
from pretrain.model.initialization import causal_lm, has_own_code
from pretrain.model.lora import merged_weights
from pretrain.runtime.atomic_write import whole_folder
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export(checkpoint: Path, tokenizer_folder: Path, out: Path) -> float:
    """Writes the Hugging Face folder of a checkpoint.

    Runs the Python code of the model at ``model.path`` if the run was allowed to; the folder then holds that code.

    Args:
        checkpoint: A whole checkpoint.
        tokenizer_folder: The Hugging Face tokenizer of the run.
        out: The folder to write; it must not exist.

    Returns:
        The relative difference of its logits from those of the training engine.

    Raises:
        DiptychError: ``out`` exists, cannot be written, or the reloaded model gives other logits.
    """
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if out.exists():
        raise DiptychError(f"{out}: exists already; export into a new folder")
    state = read_state(checkpoint)
    dtype = _DTYPES[state.dtype]
    hf_config = _config(state)
    with torch.device("meta"):
        model = causal_lm(hf_config, dtype=dtype)
    trained = read_weights(checkpoint)
    if state.identity.get("model.lora.rank"):
        trained = _merged(hf_config, trained, state)
    # The fixed state keeps the type that the engine computed with: integers, or float32 for the biases of a router.
    fixed, types = fixed_state(model), {name: tensor.dtype for name, tensor in model.state_dict().items()}
    weights = {name: tensor if name in fixed else tensor.to(types.get(name, dtype)) for name, tensor in trained.items()}
    try:
        with whole_folder(out) as scratch:
            shutil.copytree(tokenizer_folder, scratch, dirs_exist_ok=True)
            if stop := state.extra.get("stop_tokens"):
                model.generation_config.eos_token_id = list(stop)
            _write_model(model, weights, scratch)
            add_older_tokenizer_names(scratch)  # an earlier version may have started the run
            older = add_older_model_names(scratch)
            difference = _compare(scratch, read_canary(checkpoint), state)
            tokenizer_class = _tokenizer_class(scratch, trusted=has_own_code(hf_config))
            card = model_card(state, difference, tokenizer_class, older=older)
            for name, text in {"README.md": card, **state.extra.get("files", {})}.items():
                (scratch / Path(name).name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise DiptychError(f"{out}: cannot be written ({error.strerror or error}); free space") from None
    return difference


def _config(state: RunState) -> Any:
    """The Hugging Face config of a checkpoint's model; custom code is opened at ``model.path`` again."""
    from transformers import CONFIG_MAPPING, AutoConfig

    fields, path = dict(state.model), state.identity.get("model.path")
    if not (state.identity.get("model.trust_remote_code") and "auto_map" in fields):
        return CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    try:
        hf_config = type(AutoConfig.from_pretrained(path, trust_remote_code=True)).from_dict(fields)
    except Exception as error:  # transformers, the hub and remote code raise all kinds
        message = " ".join(str(error).split())[:300]
        raise DiptychError(
            f"model.path: {path}: the Python code of the model cannot be opened any more: {message}; put it back"
        ) from error
    hf_config._name_or_path = path  # where its code is
    return hf_config


def _merged(hf_config: Any, trained: Mapping[str, Tensor], state: RunState) -> dict[str, Tensor]:
    """The whole model of a checkpoint that holds only what LoRA trains."""
    settings = state.identity
    lora = {key.removeprefix("model.lora."): value for key, value in settings.items() if key.startswith("model.lora.")}
    # As at the start of the run: rows that the base lacks have their initial values, which depend on the seed.
    lm = build_model(
        hf_config, seed=settings["run.seed"], zero3_config=None, dtype=torch.float32, attention="eager", loaded=True
    )
    load_existing(lm, settings["model.path"], trust_remote_code=settings["model.trust_remote_code"])
    return merged_weights(lm, LoraConfig(**lora), trained, ids=state.extra["lora_rows"])


def _write_model(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if left or unexpected:
        raise DiptychError(f"checkpoint and model do not match: missing {left or missing}, unexpected {unexpected}")
    model.save_pretrained(folder, max_shard_size="5GB")


def _compare(folder: Path, canary: Mapping[str, Tensor], state: RunState) -> float:
    """Loads the folder as a user would; returns the relative difference of logits from the training engine's."""
    from transformers import AutoModelForCausalLM

    own_code = bool(state.identity.get("model.trust_remote_code"))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=_DTYPES[state.dtype], trust_remote_code=own_code).eval()
    model.set_attn_implementation(plain_attention(model))
    with torch.no_grad():
        reloaded = measure(model(canary["ids"]).logits, canary["ids"], canary["logits"].shape[1])
    difference, other, how = compare(reloaded, canary, TOLERANCE[state.dtype])
    if other:
        raise DiptychError(
            f"{folder}: reloaded {other} differ from the training engine's ({how}); the export is not to be trusted "
            "and was removed"
            + (". Were the weights at model.path changed?" if state.identity.get("model.lora.rank") else "")
        )
    return difference


def _tokenizer_class(folder: Path, *, trusted: bool) -> str:
    """The class that a user opens the tokenizer with.

    For some model types transformers 5.23's AutoTokenizer rebuilds a tokenizer as that type's own, with other ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    text = "A text, with 12 tokens\n  or  more: naïve (x) -> y."
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    opened = AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
    same = opened(text)["input_ids"] == plain(text)["input_ids"]
    return "AutoTokenizer" if same else "PreTrainedTokenizerFast"


def model_card(state: RunState, difference: float, tokenizer_class: str, *, older: bool = True) -> str:
    """The README of an exported model; ``older``: transformers 4 reads its config as transformers 5 does."""
    identity, extra = state.identity, state.extra
    objective = "\n".join(
        f"- `{key}`: {value}" for key, value in identity.items() if key.startswith(("objective.", "packing."))
    )
    figures = dict(extra.get("evaluation", {}))
    evaluated = f" after step {figures.pop('step', state.step):,}" if figures else ""
    evaluation = "\n".join(f"- `{name}`: {value:.4f}" for name, value in figures.items())
    plain, base = not identity.get("objective.lambda"), identity.get("model.path")
    start = f"from `{Path(base).name}`" if base else "**from scratch**"
    start += f" (LoRA of rank {identity['model.lora.rank']}, merged)" if identity.get("model.lora.rank") else ""
    losses = "next-token loss" if plain else "next-token loss and embedding prediction (arXiv 2509.14252)"
    data = "\n".join(f"- {line}" for line in extra.get("data", []))
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [diptych, llm-jepa]
---

# {extra.get("name", "model")}

A {state.model["model_type"]} language model with {extra.get("parameters", 0):,} parameters, trained {start}
with Diptych {__version__} on multi-view text: {losses}.

```python
from transformers import AutoModelForCausalLM, {tokenizer_class}

model = AutoModelForCausalLM.from_pretrained("PATH"{", trust_remote_code=True" if "auto_map" in state.model else ""})
tokenizer = {tokenizer_class}.from_pretrained("PATH")
```

{_written_by(state.model["model_type"], older)}

The tokenizer puts `{extra.get("bos", "")}` before a text, as in training. The embedding of a text is the last hidden
state (after the final norm) at its last token.

## Data

{data}
- fingerprint `{state.data_fingerprint}`

## Training

- {state.step:,} steps, {state.label_tokens:,} label tokens, {state.tokens:,} computed tokens
- seed {identity.get("run.seed")}

{objective}

## Held-out figures{evaluated}

{evaluation or "none"}

## Check

Reloaded from this folder, the logits differ from those of the training engine by {difference:.1e} relative.
"""


def _written_by(model_type: str, older: bool) -> str:
    writer = f"Written by transformers {version('transformers')}"
    if older:
        return f"{writer}. Transformers 4.57 opens it as well if it knows the type `{model_type}`."
    return f"{writer}. Do not open the model with transformers 4, which may compute other rotary embeddings."


def export_run(source: Path, out: Path, *, trust_remote_code: bool = False) -> str:
    """Exports a checkpoint. Of a run it is the one that fine-tuning chose, else the newest.

    Returns:
        One line on what was written.

    Raises:
        DiptychError: There is no whole checkpoint, or the model has code of its own that is not trusted.
    """
    if (source / "checkpoints").is_dir():
        steps = sorted((source / "checkpoints").glob("step_????????"))
        if not steps:
            raise DiptychError(f"{source}: the run has no checkpoint yet")
        chosen = dict(read_state(steps[-1]).extra.get("choice", {})).get("step")  # by validation, in fine-tuning
        source = steps[-1] if chosen is None else steps[-1].with_name(checkpoint_name(chosen))
    problem = Checkpoints(source.parent, CheckpointConfig(), Ranks(0, 1, torch.device("cpu"))).problem(source)
    if problem:
        raise DiptychError(f"{source}: {problem}; export another checkpoint")
    tokenizer = source.parent.parent / "tokenizer"
    if not tokenizer.is_dir():
        raise DiptychError(f"{tokenizer}: no tokenizer; a checkpoint is exported from within its run folder")
    settings = read_state(source).identity
    if settings.get("model.trust_remote_code") and not trust_remote_code:
        raise DiptychError(
            f"{source}: exporting it runs the Python code of {settings['model.path']}; give --trust-remote-code if you "
            "trust it"
        )
    difference = export(source, tokenizer, out)
    step = checkpoint_name(read_state(source).step)
    return f"{out}: {step}, logits differ by {difference:.1e} from the training run's"
