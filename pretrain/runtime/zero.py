"""ZeRO-3's partitioned parameters, for code that handles whole and partitioned ones alike.

DeepSpeed's private names of a parameter (``ds_...``) stand here and in ``pretrain/engine/`` alone.
"""

from collections.abc import Iterable

import torch
from torch import Tensor


def is_partitioned(parameters: Iterable[Tensor]) -> bool:
    """Whether DeepSpeed has divided parameters among the ranks."""
    return any(hasattr(parameter, "ds_id") for parameter in parameters)


def full_shape(parameter: Tensor) -> torch.Size:
    """The shape of the whole parameter."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def full_size(parameter: Tensor) -> int:
    """The number of elements of the whole parameter."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))
