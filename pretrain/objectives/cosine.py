"""Cosine distance, the published default (arXiv 2509.14252, section 3)."""

from torch import Tensor
from torch.nn import functional

from pretrain.objectives.groups import PairGroups


def cosine(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """1 - cos(prediction, target) of each pair, shape [P], in [0, 2]."""
    return 1 - functional.cosine_similarity(prediction, target, dim=-1)
