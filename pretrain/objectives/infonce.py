"""InfoNCE (van den Oord et al., arXiv 1807.03748): tell the own target from the targets of the group."""

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.objectives.groups import PairGroups


def infonce(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """Cross-entropy of choosing the own target by cosine / temperature among the group's, shape [P].

    A pair that is alone in its group has nothing to be told from: its value is 0.
    """
    targets, same_group, own = groups.candidates(target)
    cosines = functional.normalize(prediction, dim=-1) @ functional.normalize(targets, dim=-1).T
    logits = (cosines / groups.temperature).masked_fill(~same_group, -torch.inf)
    return functional.cross_entropy(logits, own, reduction="none")
