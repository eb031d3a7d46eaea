"""The learning-rate schedule as a function of the step alone."""

import math

from pretrain.config import OptimizerConfig


def learning_rate_factor(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 0) over its peak.

    Linear warm-up, then cosine down to ``min_lr_ratio``, or (WSD, arXiv 2404.06395) the peak until the last
    ``decay_fraction`` of all steps and a linear decay over those.
    """
    warmup = (step + 1) / config.warmup_steps if step < config.warmup_steps else 1.0
    floor = config.min_lr_ratio
    if config.schedule == "cosine":
        span = max(1, num_steps - config.warmup_steps)
        progress = min(1.0, max(0.0, (step - config.warmup_steps) / span))
        return min(warmup, floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2)
    decay = max(1, round(config.decay_fraction * num_steps))
    progress = max(0.0, (step - (num_steps - decay)) / decay)
    return min(warmup, 1 - (1 - floor) * min(1.0, progress))
