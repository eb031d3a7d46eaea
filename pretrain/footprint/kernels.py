"""Attention kernels without arithmetic: what they keep for the backward pass and allocate, on the meta device.

The planner runs the real model on the meta device, where every operator gives shapes and no values. The fused attention
kernels have no such form that keeps what they keep on a GPU, so these stand in for them: query, key, value, the output
(laid out as the query is) and a float32 log-sum-exp per head and position. ``eager`` is plain operators and needs none.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import repeat_kv
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class _Fused(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        same = query.shape[-1] == value.shape[-1]
        output = torch.empty_like(query) if same else query.new_empty(*query.shape[:-1], value.shape[-1])
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, sums, *([] if bias is None else [bias]))
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value), None


def _flex(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
    heads = query.shape[1]
    if heads & (heads - 1):  # transformers repeats keys and values for a number of heads that is no power of two
        key, value = (repeat_kv(states, heads // states.shape[1]) for states in (key, value))
    output: Tensor = _Fused.apply(query, key, value, None)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


def _sdpa(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **_: Any) -> tuple[Tensor, None]:
    groups = query.shape[1] // key.shape[1]
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    # With a mask of its own the kernel makes an additive one from it in every layer, and keeps it.
    bias = None if mask is None else torch.empty_like(mask, dtype=query.dtype)
    output: Tensor = _Fused.apply(query, key, value, bias)  # type: ignore[no-untyped-call]
    return output.transpose(1, 2).contiguous(), None


@contextmanager
def without_arithmetic() -> Iterator[None]:
    """Within it, transformers' flex and sdpa attention only allocate."""
    ours = {"flex_attention": _flex, "sdpa": _sdpa}
    theirs = {name: ALL_ATTENTION_FUNCTIONS[name] for name in ours}
    try:
        for name, function in ours.items():
            ALL_ATTENTION_FUNCTIONS[name] = function
        yield
    finally:
        for name, function in theirs.items():
            ALL_ATTENTION_FUNCTIONS[name] = function
