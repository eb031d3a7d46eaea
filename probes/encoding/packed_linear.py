"""Linear layers whose weights are packed once for the CPU's matrix kernels, instead of at every call.

Three quarters of the time of encoding go into linear layers (``benchmarks/encoding.py``).
"""

from typing import Any

import torch
from torch import Tensor, nn

MOST_BYTES = 2**31
"""Weights up to this size, as there is a second copy of them."""


MULTIPLE = 32
"""Positions are filled up to one: oneDNN keeps a kernel for each number that it meets, and memory grows by them."""


class PackedLinear(nn.Module):
    """``nn.Linear`` for inference in float32 on the CPU, by oneDNN.

    Attributes:
        weight: As it was, for models that read it themselves.
        packed: The packed weight; opaque.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), None)

    def forward(self, x: Tensor) -> Tensor:
        """The product, [..., out_features]."""
        count = x.shape[:-1].numel()
        if count % MULTIPLE:
            padded = x.new_zeros(-(-count // MULTIPLE) * MULTIPLE, self.in_features)
            padded[:count].view(x.shape).copy_(x)
            return self.forward(padded)[:count].view(*x.shape[:-1], self.out_features)
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return product


def pack_linear_layers(model: Any) -> None:
    """Replaces the linear layers of a model in place, where this version of torch and the device support it.

    The operators are those that ``torch.compile`` uses on the CPU; their names are not part of torch's interface
    (2.13), so each layer is tried, and left as it is where it does not give what it gave.
    """
    size = sum(parameter.numel() * parameter.itemsize for parameter in model.parameters())
    if size > MOST_BYTES or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and (packed := _packed(child)) is not None:
                setattr(module, name, packed)


@torch.inference_mode()
def _packed(linear: nn.Linear) -> PackedLinear | None:
    weight = linear.weight
    watched = linear._forward_hooks or linear._forward_pre_hooks
    if weight.dtype != torch.float32 or weight.device.type != "cpu" or watched:
        return None
    x = torch.randn(2, 3, linear.in_features, generator=torch.Generator().manual_seed(0))
    try:
        packed = PackedLinear(linear)
        found = packed(x)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return packed if torch.allclose(found, linear(x), rtol=1e-4, atol=1e-5) else None
