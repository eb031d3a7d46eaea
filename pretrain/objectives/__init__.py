"""Distances D between predicted and target embeddings. A new one is one file and one line here."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from pretrain.config.sections import DistanceName
from pretrain.objectives.cosine import cosine
from pretrain.objectives.groups import PairGroups
from pretrain.objectives.infonce import infonce
from pretrain.objectives.l2 import l2, normalized_l2
from pretrain.objectives.mse import mse

DistanceFunction = Callable[[Tensor, Tensor, PairGroups], Tensor]
"""(predictions [P, width], targets [P, width], their groups) -> one distance per pair, shape [P]; all float32."""


@dataclass(frozen=True)
class Distance:
    """A distance and what it needs.

    Attributes:
        function: The distance.
    """

    function: DistanceFunction


OBJECTIVES: dict[DistanceName, Distance] = {
    "cosine": Distance(cosine),
    "l2": Distance(l2),
    "normalized_l2": Distance(normalized_l2),
    "mse": Distance(mse),
    "infonce": Distance(infonce),
}
