"""The weights of an existing Hugging Face model, put into ours; also into a partitioned one."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.model.canary import base_canary
from pretrain.model.fixed_state import persistent_buffers, whole
from pretrain.model.initialization import has_own_code, module_seed
from pretrain.model.layout_check import layout_problem
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.zero import full_shape, is_partitioned


def load_existing(model: Any, path: str, *, trust_remote_code: bool = False) -> dict[str, Tensor]:
    """Gives every parameter and every persistent buffer the value that it has in the model at ``path``.

    An embedding (or head) with more rows than that model has keeps its own values in the rows beyond: they are those of
    new tokens. Where the model is code of its own, which cannot be initialised here, they are drawn as widely as the
    old rows spread. Collective if the model is partitioned: rank 0 reads, in its host memory, and one gather per
    parameter distributes; otherwise every rank reads.

    Args:
        model: As ``build_model`` initialised it.
        path: Folder or hub name; safetensors only, unless its code may run.
        trust_remote_code: Run the Python code that it brings along.

    Returns:
        What the model at ``path`` computes for a short text (``canary.base_canary``); rank 0 computes it while it holds
        the model, so no further memory is taken.

    Raises:
        DiptychError: On all ranks, if the folder holds no such weights, or its code does not follow our layout.
    """
    parameters, buffers = dict(model.named_parameters()), persistent_buffers(model)
    partitioned = is_partitioned(parameters.values())
    reads = not partitioned or not dist.is_initialized() or dist.get_rank() == 0
    problem: str | None = None
    values: dict[str, Tensor] = {}
    fixed: dict[str, Tensor] = {}
    base: dict[str, Tensor] = {}
    if reads:
        try:
            base_model, absent = _open(path, trust_remote_code)
            values = {
                name: parameter.detach() for name, parameter in base_model.named_parameters() if name not in absent
            }
            fixed = persistent_buffers(base_model)  # one that the files lack has the value that transformers gives it
            problem = (
                _mismatch(parameters, values)
                or _buffer_mismatch(buffers, fixed)
                or (layout_problem(base_model) if has_own_code(base_model.config) else None)
            )
            base = {} if problem else base_canary(base_model)
            del base_model  # so that each value is freed once it is copied
        except Exception as error:  # transformers, safetensors and the hub raise all kinds
            problem = f"cannot be read and run: {' '.join(str(error).split())[:300]}"
    if partitioned and dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(box := [problem, fixed, base], src=0)
        problem, fixed, base = box  # type: ignore[assignment]
    if problem:
        raise DiptychError(f"model.path: {path}: {problem}")
    for name, parameter in parameters.items():
        with whole(parameter, writer=0):
            if reads:
                value = values.pop(name)
                (parameter.data[: len(value)] if value.ndim else parameter.data).copy_(value)
                if value.ndim and len(value) < len(parameter) and has_own_code(model.config):
                    draw = torch.Generator().manual_seed(module_seed(0, name))
                    rows = torch.randn(len(parameter) - len(value), value.shape[1], generator=draw)
                    parameter.data[len(value) :].copy_(rows * value.std())
    for name, buffer in buffers.items():
        buffer.copy_(fixed[name])
    return base


def _open(path: str, trust_remote_code: bool) -> tuple[Any, set[str]]:
    """The model at ``path`` on the CPU in float32, and names of its weights that the files lack."""
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    base_model, report = AutoModelForCausalLM.from_pretrained(
        path,
        dtype=torch.float32,
        use_safetensors=None if trust_remote_code else True,
        trust_remote_code=trust_remote_code,
        output_loading_info=True,
    )
    return base_model, set(report["missing_keys"])


def _buffer_mismatch(buffers: dict[str, Tensor], values: dict[str, Tensor]) -> str | None:
    """Why values do not fit the buffers, or None."""
    for name in sorted(buffers.keys() | values.keys()):
        ours, theirs = (list(tensors[name].shape) if name in tensors else None for tensors in (buffers, values))
        if ours != theirs:
            return f"{name} has shape {theirs}, the model needs {ours}"
    return None


def _mismatch(parameters: dict[str, Any], values: dict[str, Tensor]) -> str | None:
    """Why values do not fit the parameters, or None."""
    if missing := sorted(parameters.keys() - values.keys()):
        return f"has no {missing[0]} ({len(missing)} of {len(parameters)} weights are missing)"
    for name, parameter in parameters.items():
        ours, theirs = tuple(full_shape(parameter)), tuple(values[name].shape)
        if ours[1:] != theirs[1:] or ours[:1] < theirs[:1]:
            return f"{name} has shape {list(theirs)}, the model needs {list(ours)}"
        if ours[:1] != theirs[:1] and len(ours) != 2:
            return f"{name} has {theirs[0]} entries, the model needs {ours[0]}"
    return None
