"""The next-token loss of a linear head, chunk by chunk: logits never outlive the chunk that they belong to.

The gradients of a chunk are computed right after its loss, while its logits are still there, so nothing is computed
twice in the backward pass (the idea is Liger's, arXiv 2410.10989, section 3.2). The gradient of the weight is summed
over the chunks in float32.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LossAndGradient = Callable[[Tensor, Tensor, float | None], tuple[Tensor, Tensor]]


class LossHead(nn.Linear):
    """A linear head that can be called for the loss as well as for logits.

    One call is one use of the weight, however many chunks there are: under ZeRO-3 the weight is gathered once.
    """

    cap: float | None = None
    chunk_tokens = 4096

    @classmethod
    def take_over(cls, head: nn.Linear, *, cap: float | None, chunk_tokens: int) -> None:
        """Makes a head a ``LossHead`` in place: its parameters, name and hooks stay what they are.

        Args:
            head: The head of a language model.
            cap: Logits are capped to it (Gemma 2); None: they are not.
            chunk_tokens: Label tokens whose logits are there at once.
        """
        head.__class__ = cls
        head.cap, head.chunk_tokens = cap, chunk_tokens  # type: ignore[assignment]

    def forward(self, states: Tensor, labels: Tensor | None = None) -> Tensor:
        """Logits of states, shape [..., vocabulary]; with ``labels`` the sum of their cross-entropies, in float32.

        Args:
            states: Hidden states, shape [..., width]; with labels [N, width].
            labels: Next tokens, shape [N], all of them real ones.
        """
        if labels is None:
            return super().forward(states)
        loss: Tensor = _SummedLoss.apply(  # type: ignore[no-untyped-call]
            states, labels, self.weight, self.bias, self.chunk_tokens, self.cap
        )
        return loss


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any, states: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, chunk: int, cap: float | None
    ) -> Tensor:
        total = states.new_zeros((), dtype=torch.float32)
        of_states, _, of_weight, of_bias, *_ = context.needs_input_grad
        by_states = torch.empty_like(states) if of_states else None
        by_weight = torch.zeros_like(weight, dtype=torch.float32) if of_weight else None
        by_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and of_bias else None
        compute = _loss_and_gradient(states.device.type)
        for start in range(0, len(states), chunk):
            part = states[start : start + chunk]
            loss, gradient = compute(functional.linear(part, weight, bias), labels[start : start + chunk], cap)
            total += loss
            if by_states is not None:
                torch.mm(gradient, weight, out=by_states[start : start + chunk])
            if by_weight is not None:
                by_weight += gradient.T @ part
            if by_bias is not None:
                by_bias += gradient.sum(0, dtype=torch.float32)
        context.save_for_backward(by_states, by_weight, by_bias)
        context.dtype = weight.dtype
        return total

    @staticmethod
    def backward(context: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        by_states, by_weight, by_bias = context.saved_tensors
        scale = outer[0]

        def scaled(gradient: Tensor | None) -> Tensor | None:
            return None if gradient is None else (gradient * scale).to(context.dtype)

        return scaled(by_states), None, scaled(by_weight), scaled(by_bias), None, None


@cache
def _loss_and_gradient(device_type: str) -> LossAndGradient:
    """On CUDA one compiled kernel, so that logits are never copied in float32."""
    return torch.compile(loss_and_gradient) if device_type == "cuda" else loss_and_gradient


def loss_and_gradient(logits: Tensor, labels: Tensor, cap: float | None) -> tuple[Tensor, Tensor]:
    """The summed cross-entropy of a chunk in float32 and its gradient by the logits, in their type.

    Args:
        logits: Shape [N, vocabulary].
        labels: Shape [N].
        cap: Logits are ``cap * tanh(logits / cap)`` (Gemma 2, arXiv 2408.00118, section 2); None: as they are.
    """
    values = logits.float()
    if cap:
        bent = torch.tanh(values / cap)
        values = cap * bent
    normalizer = torch.logsumexp(values, dim=1, keepdim=True)
    loss = (normalizer - values.gather(1, labels[:, None])).sum()
    tokens = torch.arange(logits.shape[1], device=logits.device)
    gradient = torch.exp(values - normalizer) - (tokens == labels[:, None]).float()
    if cap:
        gradient = gradient * (1 - bent * bent)
    return loss, gradient.to(logits.dtype)
