"""Mean squared error."""

from torch import Tensor

from pretrain.objectives.groups import PairGroups


def mse(prediction: Tensor, target: Tensor, groups: PairGroups) -> Tensor:
    """Squared difference, averaged over the width, of each pair, shape [P]."""
    return (prediction - target).square().mean(dim=-1)
