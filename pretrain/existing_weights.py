"""The weights of an existing Hugging Face model, put into ours; also into a partitioned one."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from pretrain.errors import DiptychError


def load_existing(model: Any, path: str, *, trust_remote_code: bool = False) -> None:
    """Gives every parameter the value that it has in the model at ``path``.

    An embedding (or head) with more rows than that model has keeps its own values in the rows beyond: they are those of
    new tokens. Collective if the model is partitioned: rank 0 reads, in its host memory, and one gather per parameter
    distributes; otherwise every rank reads.

    Args:
        model: As ``build_model`` initialised it.
        path: Folder or hub name; safetensors only.
        trust_remote_code: Run the Python code that it brings along.

    Raises:
        DiptychError: On all ranks, if the folder holds no such weights.
    """
    parameters = dict(model.named_parameters())
    partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters.values())
    reads = not partitioned or not dist.is_initialized() or dist.get_rank() == 0
    problem, values = None, {}
    if reads:
        try:
            values = _read(path, trust_remote_code)
            problem = _mismatch(parameters, values)
        except Exception as error:  # transformers, safetensors and the hub raise all kinds
            problem = f"cannot be read: {' '.join(str(error).split())[:300]}"
    if partitioned and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(box := [problem], src=0)
        problem = box[0]
    if problem:
        raise DiptychError(f"model.path: {path}: {problem}")
    for name, parameter in parameters.items():
        with _whole(parameter) if partitioned else nullcontext():
            if reads:
                value = values.pop(name)
                parameter.data[: len(value)].copy_(value)


def _whole(parameter: Any) -> Any:
    import deepspeed  # here: importing it starts its accelerator detection

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def _read(path: str, trust_remote_code: bool) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    found = AutoModelForCausalLM.from_pretrained(
        path, dtype=torch.float32, use_safetensors=True, trust_remote_code=trust_remote_code
    )
    return {name: parameter.detach() for name, parameter in found.named_parameters()}


def _mismatch(parameters: dict[str, Any], values: dict[str, torch.Tensor]) -> str | None:
    """What keeps the values from being those of the parameters."""
    if missing := sorted(parameters.keys() - values.keys()):
        return f"has no {missing[0]} ({len(missing)} of {len(parameters)} weights are missing)"
    for name, parameter in parameters.items():
        ours, theirs = tuple(getattr(parameter, "ds_shape", parameter.shape)), tuple(values[name].shape)
        if ours[1:] != theirs[1:] or ours[0] < theirs[0]:
            return f"{name} has shape {list(theirs)}, the model needs {list(ours)}"
        if ours[0] != theirs[0] and len(ours) != 2:
            return f"{name} has {theirs[0]} entries, the model needs {ours[0]}"
    return None
