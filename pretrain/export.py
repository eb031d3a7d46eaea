"""From a checkpoint to a plain Hugging Face folder: ``python -m pretrain.export CHECKPOINT_OR_RUN OUT``.

The folder opens with ``AutoModelForCausalLM.from_pretrained`` and ``AutoTokenizer.from_pretrained``, without any of our
code. Before it gets its name it is loaded again and its logits are compared with those that the running engine gave
when it wrote the checkpoint.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pretrain import __version__
from pretrain.checkpoint import RunState, checkpoint_name, read_canary, read_state, read_weights
from pretrain.command import run_command
from pretrain.errors import DiptychError
from pretrain.model import plain_attention

TOLERANCE = {"float32": 1e-4, "bfloat16": 3e-2}
"""Largest accepted norm of the difference of logits over their norm; bfloat16 rounds differently on each device."""

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def export(checkpoint: Path, tokenizer_folder: Path, out: Path) -> float:
    """Writes the Hugging Face folder of a checkpoint.

    Args:
        checkpoint: A whole checkpoint.
        tokenizer_folder: The Hugging Face tokenizer that the model was trained with.
        out: Must not exist.

    Returns:
        The relative difference of its logits from those of the training engine.

    Raises:
        DiptychError: ``out`` exists, cannot be written, or the reloaded model gives other logits.
    """
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if out.exists():
        raise DiptychError(f"{out}: exists already; export into a new folder")
    state = read_state(checkpoint)
    dtype = _DTYPES[state.dtype]
    fields = dict(state.model)
    hf_config = CONFIG_MAPPING[fields["model_type"]].from_dict(fields)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config, dtype=dtype)
    weights = {name: tensor.to(dtype) for name, tensor in read_weights(checkpoint).items()}
    scratch = out.with_name(out.name + ".tmp")
    try:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.copytree(tokenizer_folder, scratch)
        _write_model(model, weights, scratch)
        difference = _compare(scratch, read_canary(checkpoint), state)
        card = model_card(state, difference, _tokenizer_class(scratch))
        (scratch / "README.md").write_text(card, encoding="utf-8")
        os.replace(scratch, out)
    except OSError as error:
        raise DiptychError(f"{out}: cannot be written ({error.strerror or error}); free space") from None
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return difference


def _write_model(model: Any, weights: Mapping[str, Tensor], folder: Path) -> None:
    missing, unexpected = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    left = [name for name, parameter in model.named_parameters() if parameter.is_meta]
    if left or unexpected:
        raise DiptychError(f"checkpoint and model do not match: missing {left or missing}, unexpected {unexpected}")
    model.save_pretrained(folder, max_shard_size="5GB")


def _compare(folder: Path, canary: Mapping[str, Tensor], state: RunState) -> float:
    """Loads the folder as a user would and compares logits with the training engine's."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=_DTYPES[state.dtype]).eval()
    model.set_attn_implementation(plain_attention(model))
    with torch.no_grad():
        logits = model(canary["ids"]).logits.float()[:, -canary["logits"].shape[1] :]
    difference = float(torch.linalg.vector_norm(logits - canary["logits"]) / torch.linalg.vector_norm(canary["logits"]))
    if not difference <= TOLERANCE[state.dtype]:
        raise DiptychError(
            f"{folder}: reloaded logits differ from the training engine's by {difference:.1e} relative "
            f"(limit {TOLERANCE[state.dtype]:.0e}); the export is not to be trusted and was removed"
        )
    return difference


def _tokenizer_class(folder: Path) -> str:
    """The class that a user opens the tokenizer with.

    For some model types transformers 5.23's AutoTokenizer rebuilds a tokenizer as that type's own, with other ids.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    text = "A text, with 12 tokens\n  or  more: naïve (x) -> y."
    plain = PreTrainedTokenizerFast.from_pretrained(folder)
    same = AutoTokenizer.from_pretrained(folder)(text)["input_ids"] == plain(text)["input_ids"]
    return "AutoTokenizer" if same else "PreTrainedTokenizerFast"


def canary(engine: Any, ids: Sequence[int], device: torch.device, positions: int = 4) -> dict[str, Tensor]:
    """Token ids, shape [1, length], and the engine's logits at the last positions, [1, positions, vocabulary].

    Collective under ZeRO-3.
    """
    lm = engine.module.lm
    batch = torch.tensor([list(ids)], device=device)
    attention = lm.config._attn_implementation
    lm.set_attn_implementation(plain_attention(lm))
    engine.eval()
    with torch.no_grad():
        logits = lm(batch, use_cache=False).logits[:, -positions:].float().cpu()
    engine.train()
    lm.set_attn_implementation(attention)
    return {"ids": batch.cpu(), "logits": logits.contiguous()}


def model_card(state: RunState, difference: float, tokenizer_class: str) -> str:
    """The README of an exported model."""
    identity, facts = state.identity, state.extra
    objective = "\n".join(
        f"- `{key}`: {value}" for key, value in identity.items() if key.startswith(("objective.", "packing."))
    )
    figures = dict(facts.get("evaluation", {}))
    evaluated = f" after step {figures.pop('step'):,}" if figures else ""
    evaluation = "\n".join(f"- `{name}`: {value:.4f}" for name, value in figures.items())
    plain = not identity.get("objective.lambda")
    losses = "next-token loss" if plain else "next-token loss and embedding prediction (arXiv 2509.14252)"
    data = "\n".join(f"- {line}" for line in facts.get("data", []))
    return f"""---
library_name: transformers
pipeline_tag: text-generation
tags: [diptych, llm-jepa]
---

# {facts.get("name", "model")}

A {state.model["model_type"]} language model with {facts.get("parameters", 0):,} parameters, trained **from scratch**
with Diptych {__version__} on multi-view text: {losses}.

```python
from transformers import AutoModelForCausalLM, {tokenizer_class}

model = AutoModelForCausalLM.from_pretrained("PATH")
tokenizer = {tokenizer_class}.from_pretrained("PATH")
```

The tokenizer puts `{facts.get("bos", "")}` before a text, as in training. The embedding of a text is the last hidden
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


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain.export``."""
    if len(argv) != 2 or argv[0].startswith("-"):
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    source, out = Path(argv[0]), Path(argv[1])
    if (source / "checkpoints").is_dir():
        steps = sorted((source / "checkpoints").glob("step_????????"))
        if not steps:
            raise DiptychError(f"{source}: the run has no checkpoint yet")
        source = steps[-1]
    from pretrain.checkpoint import Checkpoints
    from pretrain.config import CheckpointConfig
    from pretrain.distributed import Ranks

    problem = Checkpoints(source.parent, CheckpointConfig(), Ranks(0, 1, torch.device("cpu"))).problem(source)
    if problem:
        raise DiptychError(f"{source}: {problem}; export another checkpoint")
    tokenizer = source.parent.parent / "tokenizer"
    if not tokenizer.is_dir():
        raise DiptychError(f"{tokenizer}: no tokenizer; a checkpoint is exported from within its run folder")
    difference = export(source, tokenizer, out)
    print(
        f"{out}: {checkpoint_name(read_state(source).step)}, logits differ by {difference:.1e} from the training run's"
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
