"""The model of an engine in evaluation mode for a while."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch

from pretrain.model.build import plain_kernel


@contextmanager
def evaluating(engine: Any, *, plain: bool = False) -> Iterator[None]:
    """Within it the engine's model is in evaluation mode and makes no gradients; afterwards it trains as before.

    Args:
        engine: The engine.
        plain: The model computes single texts, without packed rows.
    """
    engine.eval()
    try:
        with torch.no_grad(), plain_kernel(engine.module.lm) if plain else nullcontext():
            yield
    finally:
        engine.train()
