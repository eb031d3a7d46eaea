"""The weights of an existing Hugging Face model, put into ours; also into a partitioned one."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist

from pretrain.conformance import layout_problem
from pretrain.errors import DiptychError
from pretrain.initialization import has_own_code, module_seed


def load_existing(model: Any, path: str, *, trust_remote_code: bool = False) -> None:
    """Gives every parameter the value that it has in the model at ``path``.

    An embedding (or head) with more rows than that model has keeps its own values in the rows beyond: they are those of
    new tokens. Where the model is code of its own, which cannot be initialised here, they are drawn as widely as the
    old rows spread. Collective if the model is partitioned: rank 0 reads, in its host memory, and one gather per
    parameter distributes; otherwise every rank reads.

    Args:
        model: As ``build_model`` initialised it.
        path: Folder or hub name; safetensors only, unless its code may run.
        trust_remote_code: Run the Python code that it brings along.

    Raises:
        DiptychError: On all ranks, if the folder holds no such weights, or its code does not follow our layout.
    """
    parameters = dict(model.named_parameters())
    partitioned = any(hasattr(parameter, "ds_id") for parameter in parameters.values())
    reads = not partitioned or not dist.is_initialized() or dist.get_rank() == 0
    problem, values = None, {}
    if reads:
        try:
            found, absent = _open(path, trust_remote_code)
            values = {name: parameter.detach() for name, parameter in found.named_parameters() if name not in absent}
            problem = _mismatch(parameters, values) or (layout_problem(found) if has_own_code(found.config) else None)
            del found  # so that each value goes when it is copied
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
                if len(value) < len(parameter) and has_own_code(model.config):
                    draw = torch.Generator().manual_seed(module_seed(0, name))
                    rows = torch.randn(len(parameter) - len(value), value.shape[1], generator=draw)
                    parameter.data[len(value) :].copy_(rows * value.std())


def _whole(parameter: Any) -> Any:
    import deepspeed  # here: importing it starts its accelerator detection

    return deepspeed.zero.GatheredParameters([parameter], modifier_rank=0)


def _open(path: str, trust_remote_code: bool) -> tuple[Any, set[str]]:
    """The model at ``path`` on the CPU in float32, and names of its weights that the files lack."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    found, report = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        use_safetensors=None if trust_remote_code else True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    return found, set(report["missing_keys"])


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
