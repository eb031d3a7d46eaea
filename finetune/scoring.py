"""From verdicts to figures: means with bootstrap intervals, and the examples that training has seen."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from finetune.tasks.task import Example, Task, Verdict
from pretrain.preparation.comparing import matching_form

RESAMPLES = 10_000
SEED = 0
LEVEL = 0.95

_FEW = 10
"""Wrong or right examples, below which the bootstrap of a mean is too narrow."""

_PASSES = 500_000
"""Limit on resamples times examples for a metric that is not a mean."""


@dataclass(frozen=True)
class Metric:
    """A figure with its interval; percentile bootstrap over examples, 95 %.

    With few wrong or right examples the bootstrap of a mean is too narrow, and with none it has no width: where less
    than ``_FEW`` are, the interval holds Wilson's as well.

    Attributes:
        value: Over the decided examples; None where there is none.
        low: Lower end.
        high: Upper end.
        decided: Examples that count.
        undecided: Examples that could not be judged by this metric; they are left out.
        resamples: Resamples that the interval was taken from.
    """

    value: float | None
    low: float | None
    high: float | None
    decided: int
    undecided: int
    resamples: int


def metrics(
    task: Task,
    examples: Sequence[Example],
    verdicts: Sequence[Verdict],
    outputs: Sequence[str],
    labels: Sequence[str],
) -> dict[str, Metric]:
    """Every metric of a task over some examples.

    Args:
        task: The task.
        examples: All of an evaluation, or some of them.
        verdicts: One for each example, as are ``outputs``.
        outputs: What was judged.
        labels: The possible answers among all examples of the evaluation; none but for a classification.

    Returns:
        The metrics by name, the task's main one first; none without examples.
    """
    if not examples:
        return {}
    found = mean_metrics([verdict.scores for verdict in verdicts])
    plain = task.summary(examples, verdicts, outputs, labels)
    if plain:

        def resampled(chosen: NDArray[np.int64]) -> Mapping[str, float]:
            places = chosen.tolist()
            return task.summary(
                [examples[place] for place in places],
                [verdicts[place] for place in places],
                [outputs[place] for place in places],
                labels,
            )

        found |= summary_metrics(plain, resampled, len(examples))
    return {name: found[name] for name in sorted(found, key=lambda name: name != task.main)}


def mean_metrics(scores: Sequence[Mapping[str, float | None]], resamples: int = RESAMPLES) -> dict[str, Metric]:
    """Means of scores per example.

    Args:
        scores: For each example, metric to value; None, or a missing metric: not decided.
        resamples: Number of bootstrap resamples, the same for every metric.
    """
    names = list(dict.fromkeys(name for score in scores for name in score))
    if not names:
        return {}
    table = np.array([[_number(score.get(name)) for name in names] for score in scores])
    decided = ~np.isnan(table)
    both = np.concatenate([np.where(decided, table, 0.0), decided], axis=1)  # sums and counts
    rng, count = np.random.default_rng(SEED), len(scores)
    means = []
    for chunk in _chunks(resamples, count):
        drawn = rng.integers(count, size=(chunk, count)) + count * np.arange(chunk)[:, None]
        times = np.bincount(drawn.ravel(), minlength=chunk * count).reshape(chunk, count)
        sums, counts = np.split(times @ both, 2, axis=1)
        means.append(np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0))
    drawn_means = np.concatenate(means)
    return {
        name: _widened(
            _metric(
                float(table[decided[:, column], column].mean()) if decided[:, column].any() else None,
                drawn_means[:, column],
                int(decided[:, column].sum()),
                count,
            )
        )
        for column, name in enumerate(names)
    }


def summary_metrics(
    plain: Mapping[str, float],
    resampled: Callable[[NDArray[np.int64]], Mapping[str, float]],
    count: int,
) -> dict[str, Metric]:
    """Metrics over all examples that are not means.

    Args:
        plain: Their values.
        resampled: Computes their values over the examples with the given numbers.
        count: Number of examples; of more than 500 there are less than 1,000 resamples, and 200 at least.
    """
    resamples = min(1_000, max(200, _PASSES // count))
    rng = np.random.default_rng(SEED)
    draws = [resampled(rng.integers(count, size=count)) for _ in range(resamples)]
    return {
        name: _metric(value, np.array([draw.get(name, np.nan) for draw in draws]), count, count)
        for name, value in plain.items()
    }


def leaks(examples: Sequence[Example], training: Sequence[Example]) -> list[str | None]:
    """Which examples training has seen: prompts in the form of natural language, golds, which may be code, as written.

    Returns:
        For each example ``pair`` (prompt and gold are a training pair), ``prompt`` (the prompt is a training prompt) or
        None.
    """
    prompts = {matching_form(example.prompt) for example in training}
    pairs = {(matching_form(example.prompt), example.gold.strip()) for example in training}
    found: list[str | None] = []
    for example in examples:
        prompt = matching_form(example.prompt)
        if (prompt, example.gold.strip()) in pairs:
            found.append("pair")
        else:
            found.append("prompt" if prompt in prompts else None)
    return found


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)


def _chunks(total: int, width: int) -> list[int]:
    """Sizes that sum to the total, so that a table of size times width stays small."""
    size = max(1, 2**21 // width)
    return [min(size, total - start) for start in range(0, total, size)]


def _metric(value: float | None, draws: NDArray[np.float64], decided: int, count: int) -> Metric:
    draws = draws[~np.isnan(draws)]
    if value is None or not len(draws):
        return Metric(value, None, None, decided, count - decided, 0)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Metric(value, float(low), float(high), decided, count - decided, len(draws))


def _widened(metric: Metric) -> Metric:
    """A mean with Wilson's interval, where few examples are wrong or right."""
    share, count = metric.value, metric.decided
    if share is None or metric.low is None or metric.high is None:
        return metric
    if round(count * min(share, 1 - share), 6) >= _FEW:
        return metric
    z = NormalDist().inv_cdf((1 + LEVEL) / 2)
    middle, shrink = share + z * z / (2 * count), 1 + z * z / count
    half = z * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    low, high = (middle - half) / shrink, (middle + half) / shrink
    return replace(metric, low=max(0.0, min(metric.low, low)), high=min(1.0, max(metric.high, high)))
