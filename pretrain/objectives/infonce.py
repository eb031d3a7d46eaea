"""InfoNCE (van den Oord et al., arXiv 1807.03748): choose the target of a pair among the targets of its group."""

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.objectives.groups import PairGroups


def infonce(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """Cross-entropy of choosing the pair's target among its group's by cosine / temperature, shape [P].

    For a pair that is alone in its group it is 0.
    """
    targets, same_group, number = groups.candidates(target)
    cosines = functional.normalize(prediction, dim=-1) @ functional.normalize(targets, dim=-1).T
    logits = (cosines / groups.temperature).masked_fill(~same_group, -torch.inf)
    return functional.cross_entropy(logits, number, reduction="none")
