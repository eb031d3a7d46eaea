"""The learning-rate schedule as a function of the step alone."""

import math

from pretrain.config.sections import Config, OptimizerConfig


def learning_rate_factor(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Learning rate of a step (from 0) over its peak.

    A linear warm-up ends at the peak in step ``warmup_steps`` (counted from 1; without one the first step has the
    peak). Then either a cosine, or (WSD, arXiv 2404.06395) the peak until a linear decay over the last
    ``decay_fraction`` of all steps, which begins after the warm-up at the earliest. The last step has ``min_lr_ratio``.
    """
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    decay = _decay_steps(config, num_steps)
    done = step + 1 - (num_steps - decay)  # steps of the decay, this one included
    if done <= 0:
        return 1.0
    progress = min(1.0, done / decay) if decay else 1.0
    floor = config.min_lr_ratio
    if config.schedule == "cosine":
        return floor + (1 - floor) * (1 + math.cos(math.pi * progress)) / 2
    return 1 - (1 - floor) * progress


def warmup_notes(config: Config, num_steps: int) -> list[str]:
    """What a run of so many steps is too short for."""
    notes = []
    warmup, scaled = config.optimizer.warmup_steps, config.objective.lambda_warmup_steps
    if warmup > num_steps:
        notes.append(
            f"note: optimizer.warmup_steps {warmup:,} is more than the run's {num_steps:,} steps: the learning rate "
            f"ends at {num_steps / warmup:.0%} of its peak; lower optimizer.warmup_steps"
        )
    elif warmup == num_steps and config.optimizer.min_lr_ratio < 1:
        notes.append(
            f"note: optimizer.warmup_steps {warmup:,} is the whole run: the learning rate ends at its peak; lower "
            "optimizer.warmup_steps"
        )
    if scaled > num_steps and config.objective.lambda_:
        notes.append(
            f"note: objective.lambda_warmup_steps {scaled:,} is more than the run's {num_steps:,} steps: lambda ends "
            f"at {num_steps / scaled:.0%} of its value; lower objective.lambda_warmup_steps"
        )
    return notes


def _decay_steps(config: OptimizerConfig, num_steps: int) -> int:
    room = max(0, num_steps - max(1, config.warmup_steps))
    return room if config.schedule == "cosine" else min(room, max(1, round(config.decay_fraction * num_steps)))
