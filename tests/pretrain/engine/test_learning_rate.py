"""The learning-rate schedule, value by value."""

import math

import pytest

from pretrain.config.loading import load_config
from pretrain.config.sections import OptimizerConfig
from pretrain.engine.learning_rate import learning_rate_factor, warmup_notes


def factors(num_steps: int, **settings: object) -> list[float]:
    config = OptimizerConfig(**settings)  # type: ignore[arg-type]
    return [learning_rate_factor(config, step, num_steps) for step in range(num_steps)]


def test_cosine_values() -> None:
    found = factors(12, schedule="cosine", warmup_steps=4, min_lr_ratio=0.2)
    assert found[:4] == [0.25, 0.5, 0.75, 1.0]
    assert found[4:] == pytest.approx([0.2 + 0.8 * (1 + math.cos(math.pi * n / 8)) / 2 for n in range(1, 9)])
    assert found[7] == pytest.approx(0.6) and found[11] == pytest.approx(0.2)


def test_wsd_is_stable_and_then_falls_in_a_line() -> None:
    found = factors(20, schedule="wsd", warmup_steps=2, decay_fraction=0.25, min_lr_ratio=0.1)
    assert found[:2] == [0.5, 1.0]
    assert found[2:15] == [1.0] * 13
    assert found[15:] == pytest.approx([1 - 0.9 * n / 5 for n in range(1, 6)])


def test_wsd_reaches_its_floor_in_a_short_run() -> None:
    found = factors(5, schedule="wsd", warmup_steps=0, decay_fraction=0.2, min_lr_ratio=0.1)
    assert found == pytest.approx([1, 1, 1, 1, 0.1])


def test_wsd_decays_over_all_that_follows_the_warm_up() -> None:
    found = factors(8, schedule="wsd", warmup_steps=4, decay_fraction=1.0, min_lr_ratio=0.0)
    assert found == pytest.approx([0.25, 0.5, 0.75, 1, 0.75, 0.5, 0.25, 0])


@pytest.mark.parametrize("schedule", ["cosine", "wsd"])
@pytest.mark.parametrize(("num_steps", "warmup"), [(2, 0), (2, 1), (5, 0), (7, 6), (21, 20), (100, 20), (999, 0)])
@pytest.mark.parametrize("floor", [0.0, 0.1, 1.0])
def test_the_peak_and_then_the_floor_are_reached(schedule: str, num_steps: int, warmup: int, floor: float) -> None:
    for fraction in (0.01, 0.2, 1.0):
        found = factors(num_steps, schedule=schedule, warmup_steps=warmup, decay_fraction=fraction, min_lr_ratio=floor)
        assert found[max(0, warmup - 1)] == 1.0
        assert found[-1] == pytest.approx(floor)


def test_a_run_that_is_too_short_for_its_warm_up_says_so() -> None:
    def notes(num_steps: int, *overrides: str) -> list[str]:
        return warmup_notes(load_config(None, overrides), num_steps)

    lr, scaled = "optimizer.warmup_steps=20", "objective.lambda_warmup_steps=40"
    assert notes(21, lr) == notes(40, lr, scaled) == notes(20, lr, "optimizer.min_lr_ratio=1") == []
    assert notes(30, scaled, "optimizer.warmup_steps=0", "objective.lambda=0") == []
    (line,) = notes(5, lr)
    assert "optimizer.warmup_steps 20 is more than the run's 5 steps" in line and "ends at 25% of its peak" in line
    (line,) = notes(20, lr)
    assert "ends at its peak" in line
    (line,) = notes(30, lr, scaled)
    assert "objective.lambda_warmup_steps 40 is more than the run's 30 steps" in line and "ends at 75%" in line


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
