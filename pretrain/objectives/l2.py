"""Euclidean distances."""

import torch
from torch import Tensor
from torch.nn import functional

from pretrain.objectives.groups import PairGroups


def l2(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """Norm of the difference of each pair, shape [P], as published: it grows with the width, so weigh it with care."""
    norms: Tensor = torch.linalg.vector_norm(prediction - target, dim=-1)
    return norms


def normalized_l2(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """Norm of the difference of the unit vectors, shape [P], in [0, 2]: on the scale of the cosine distance."""
    return l2(functional.normalize(prediction, dim=-1), functional.normalize(target, dim=-1), groups)
