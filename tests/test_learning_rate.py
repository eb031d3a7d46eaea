"""The learning-rate schedule, value by value."""

import math

import pytest

from pretrain.config import OptimizerConfig
from pretrain.learning_rate import learning_rate_factor


def factors(num_steps: int, **settings: object) -> list[float]:
    config = OptimizerConfig(**settings)  # type: ignore[arg-type]
    return [learning_rate_factor(config, step, num_steps) for step in range(num_steps)]


def test_cosine_values() -> None:
    found = factors(12, schedule="cosine", warmup_steps=4, min_lr_ratio=0.2)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == pytest.approx([0.2 + 0.8 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(8)])
    assert found[4] == 1.0 and found[8] == pytest.approx(0.6)


def test_wsd_is_stable_and_then_falls_in_a_line() -> None:
    found = factors(20, schedule="wsd", warmup_steps=2, decay_fraction=0.25, min_lr_ratio=0.1)
    assert found[:2] == [0.5, 1.0]
    assert found[2:16] == [1.0] * 14
    assert found[16:] == pytest.approx([1 - 0.9 * n / 5 for n in range(1, 5)])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_without_warm_up_the_first_step_has_the_peak(schedule: str) -> None:
    assert factors(10, schedule=schedule, warmup_steps=0)[0] == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
def test_it_ends_at_the_floor_and_stays_there(schedule: str) -> None:
    config = OptimizerConfig(schedule=schedule, warmup_steps=3, min_lr_ratio=0.1)  # type: ignore[arg-type]
    assert learning_rate_factor(config, 50, 50) == pytest.approx(0.1)
    assert learning_rate_factor(config, 500, 50) == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("num_steps", "warmup"), [(1, 0), (1, 20), (3, 20), (20, 20), (21, 20), (100, 20)])
def test_it_never_leaves_its_range_nor_rises_after_the_warm_up(schedule: str, num_steps: int, warmup: int) -> None:
    found = factors(num_steps, schedule=schedule, warmup_steps=warmup, min_lr_ratio=0.1)
    assert all(0 < factor <= 1 for factor in found)
    after = found[max(0, warmup - 1) :]
    assert after == sorted(after, reverse=True)


def test_a_floor_of_one_is_a_constant_rate() -> None:
    for schedule in ("cosine", "wsd"):
        assert factors(9, schedule=schedule, warmup_steps=0, min_lr_ratio=1.0) == pytest.approx([1.0] * 9)
