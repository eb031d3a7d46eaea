"""The load-balancing loss of mixtures of experts (arXiv 2101.03961, equations 4 to 6), as transformers computes it.

transformers adds it in the causal LM's forward pass, which training does not run. There it is computed over whatever
shares a forward pass, so it depends on the number of rows. Here it is computed row by row, and a step takes the mean
over rows, weighted by their tokens: the same for any number of ranks and any accumulation.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

_WEIGHTS = ("router_aux_loss_coef", "aux_loss_coef")


def balance_weight(hf_config: Any) -> float:
    """What the loss is multiplied by; 0 where the config does not ask for it (``output_router_logits``)."""
    if not getattr(hf_config, "output_router_logits", False):
        return 0.0
    return next((float(getattr(hf_config, name)) for name in _WEIGHTS if has_balance_weight(hf_config, name)), 0.0)


def has_balance_weight(hf_config: Any, *names: str) -> bool:
    """Whether the config has a weight for such a loss."""
    return any(getattr(hf_config, name, None) is not None for name in names or _WEIGHTS)


def balance_sum(router_logits: Sequence[Tensor], chosen: int, lengths: Tensor) -> Tensor:
    """Sum over rows of a row's loss times its number of tokens, a float32 scalar.

    Args:
        router_logits: Of each routed layer; each [rows * length, experts].
        chosen: Experts of a token.
        lengths: Tokens of each row, which come before its padding; shape [rows].
    """
    rows, experts = len(lengths), router_logits[0].shape[-1]
    counts = probabilities = lengths.new_zeros(rows, experts, dtype=torch.float32)
    for logits in router_logits:
        weights = logits.float().softmax(-1).view(rows, -1, experts)
        tokens = torch.arange(weights.shape[1], device=lengths.device) < lengths[:, None]
        picked = torch.zeros_like(weights).scatter_(-1, weights.topk(chosen, dim=-1).indices, 1.0)
        counts = counts + (picked * tokens[..., None]).sum(1)
        probabilities = probabilities + (weights * tokens[..., None]).sum(1)
    seen = len(router_logits) * lengths.clamp(min=1)[:, None]
    losses = experts * (counts / seen * (probabilities / seen)).sum(1)
    return (losses * lengths).sum()
