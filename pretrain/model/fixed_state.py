"""State that training does not change: persistent buffers, and parameters that the model type itself freezes.

Some mixtures of experts keep the biases of their routers there. The optimizer does not hold them, but the model
computes with them, so they are stored in every checkpoint and export.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from torch import Tensor, nn

from pretrain.model.lora import EmbeddingWithRows
from pretrain.runtime.zero import is_partitioned


def persistent_buffers(lm: nn.Module) -> dict[str, Tensor]:
    """Buffers that belong to the model's state dict, by name."""
    return {
        f"{module_name}.{name}".lstrip("."): buffer
        for module_name, module in lm.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
        if name not in module._non_persistent_buffers_set
    }


def fixed_state(lm: Any) -> dict[str, Tensor]:
    """Persistent buffers, and parameters that the model type itself freezes, by name."""
    fixed = persistent_buffers(lm)
    if any(isinstance(module, EmbeddingWithRows) for module in lm.modules()):
        return fixed  # what LoRA freezes is loaded from model.path again
    return fixed | {name: parameter for name, parameter in lm.named_parameters() if not parameter.requires_grad}


def gather_fixed_state(lm: Any) -> dict[str, Tensor]:
    """Copies the fixed state to the CPU, each tensor in its own type. Collective under ZeRO-3."""
    gathered = {}
    for name, tensor in fixed_state(lm).items():
        with whole(tensor):
            gathered[name] = tensor.detach().to("cpu", copy=True)
    return gathered


def set_fixed_state(lm: Any, read: Callable[[str], Tensor]) -> None:
    """Sets the fixed state to what was gathered. Collective under ZeRO-3.

    Args:
        lm: The model, partitioned or not.
        read: Returns a tensor by its name; called on every rank.
    """
    for name, tensor in fixed_state(lm).items():
        with whole(tensor, writer=0):
            tensor.data.copy_(read(name))


def whole(tensor: Any, writer: int | None = None) -> Any:
    """A context in which a parameter is whole, and in which rank ``writer`` may change it for all."""
    if not is_partitioned([tensor]):
        return nullcontext()
    import deepspeed  # here: importing it starts its accelerator detection

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=writer)
