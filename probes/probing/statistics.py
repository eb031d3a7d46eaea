"""How sure a score is, and whether two systems differ: bootstrap over examples, Wilson, Tango, exact McNemar, Holm."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.stats import binomtest, norm  # type: ignore[import-untyped]

from pretrain.runtime.errors import DiptychError
from probes.results import Estimate

RESAMPLES = 5000
LEVEL = 0.95
FEW = 10  # texts with errors, hits or disagreements, below which the bootstrap is too narrow
_BLOCK = 1 << 20  # entries of one block of resamples: 8 MB, and some ten such arrays at a time
_Z = float(norm.ppf((1 + LEVEL) / 2))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TestScores:
    """Scores of a system on the test examples, averaged over seeds.

    Attributes:
        accuracy: Share of examples that are right. Its interval covers near 0 and 100 % too.
        macro_f1: Mean F1 of the classes that occur among the gold or predicted labels, as in scikit-learn. Its
            interval is the bootstrap's alone, without the correction that accuracy has: with few errors, or a class of
            few examples, it is too narrow, and where all examples are right it has no width.
    """

    __test__ = False  # not a class of tests

    accuracy: Estimate
    macro_f1: Estimate


@dataclass(frozen=True)
class PairedTest:
    """Two systems on the same test examples.

    Attributes:
        difference: Accuracy of the first minus that of the second.
        mcnemar: Exact two-sided p-value.
    """

    difference: Estimate
    mcnemar: float


def score_predictions(
    gold: ArrayLike,
    predictions: ArrayLike,
    num_classes: int,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> TestScores:
    """Accuracy and macro-F1 with 95 % percentile bootstrap intervals over test texts.

    A resample draws as many texts as there are, with replacement and each with all of its copies (cluster bootstrap:
    copies are right or wrong together, and would make the interval too narrow), and keeps what all seeds say of each.
    Only the number of draws of each pattern of (gold, predictions) matters, and these numbers are multinomial: drawing
    them directly is the same bootstrap at a fraction of the time. The interval speaks of other test texts, not of other
    training sets; ``std`` speaks of the seeds.

    With few errors the bootstrap is too narrow, and without errors it has no width. Where fewer than ``FEW`` texts
    are wrong, or right, the interval of the accuracy therefore is the union of the bootstrap's and of Wilson's score
    interval at the mean over seeds. That takes the seeds as one, and so is never narrower than it ought to be. Macro-F1
    has no such correction: its interval is too narrow there.

    Args:
        gold: Labels [num_test].
        predictions: Labels [num_test] or [seeds, num_test].
        num_classes: Labels are 0 … num_classes − 1.
        clusters: Examples with one number, such as copies of a text, are drawn together [num_test]; None: each is on
            its own.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DiptychError: No examples, shapes that do not fit, or labels out of range.
    """
    gold_labels, said = _labels(gold, predictions, num_classes)
    patterns, pattern_of, counts = np.unique(
        np.vstack([gold_labels, said]), axis=1, return_inverse=True, return_counts=True
    )
    sums = [_class_sums(patterns[0], row, num_classes) for row in patterns[1:]]

    def scores(draws: Array) -> Array:
        """[draws, patterns] -> accuracy and macro-F1 [2, seeds, draws]."""
        return np.stack([_scores(draws @ hits, draws @ occurrences) for hits, occurrences in sums], axis=1)

    contents, numbers = _cluster_patterns(pattern_of, _numbers(clusters, len(gold_labels)))
    drawn = [
        scores(draws @ contents).mean(axis=1)
        for draws in _resampled(numbers, resamples, seed, max(num_classes, len(counts)))
    ]
    accuracy, macro_f1 = map(_estimate, scores(counts[None].astype(np.float64))[:, :, 0], np.concatenate(drawn, axis=1))
    return TestScores(_widened(accuracy, int(numbers.sum())), macro_f1)


def compare(
    gold: ArrayLike,
    first: ArrayLike,
    second: ArrayLike,
    *,
    clusters: ArrayLike | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> PairedTest:
    """Whether two systems differ in accuracy: paired bootstrap of the difference and McNemar's exact test.

    Both are judged on the same resamples of the test texts, each example by the share of a system's seeds that are
    right. Copies of a text are drawn together, and are one text in McNemar's test: a text that occurs fifty times is no
    more evidence than one that occurs once.

    Where the systems differ on few examples the bootstrap is too narrow, and where they differ on none it has no
    width. Below ``FEW`` such examples the interval therefore is the union of the bootstrap's and of Tango's score
    interval for paired proportions, which holds 0 exactly where McNemar's χ² (without continuity correction) does not
    reject. The same holds where one system wins on all but few. An example counts by how far the shares of right seeds
    are apart; as whole wins and losses vary more than shares of the same mean, the interval is not too narrow for that.

    Identical predictions are taken for copies of one system, which differ by exactly 0: interval [0, 0] and p = 1. That
    is a convention, not coverage: two systems that would differ on one example in a thousand often agree on all of a
    test set, and then a difference up to z² / (num_test + z²), z = 1.96, is left open (Tango's interval). Systems that
    are right on the same examples but err differently are no copies, and have that interval.

    Args:
        gold: Labels [num_test].
        first: Predictions of the first system, [num_test] or [seeds, num_test].
        second: Of the second, likewise; its number of seeds may differ. With equal numbers ``std`` is that of the
            differences seed by seed, otherwise None.
        clusters: As in :func:`score_predictions`.
        resamples: Of the bootstrap.
        seed: Of the bootstrap.

    Raises:
        DiptychError: No examples, or shapes that do not fit.

    Source: T. Tango (1998), Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design, Statistics in Medicine 17, 891-908.
    """
    gold_labels, first_said = _labels(gold, first)
    _, second_said = _labels(gold, second)
    right, other = first_said == gold_labels, second_said == gold_labels
    # Whole numbers: equal systems differ by exactly nothing, whatever the number of seeds.
    of, num_clusters = _numbers(clusters, len(gold_labels))
    signed = _signed(right, other, of, num_clusters)
    pairs, counts = np.unique(np.stack([signed, np.bincount(of, minlength=num_clusters)]), axis=1, return_counts=True)
    judgements = len(right) * len(other)
    drawn = np.concatenate(
        [draws @ pairs[0] / (judgements * (draws @ pairs[1])) for draws in _resampled(counts, resamples, seed)]
    )
    by_seed = right.mean(axis=1) - other.mean(axis=1) if len(right) == len(other) else np.zeros(0)
    low, high = _interval(drawn)
    weights = pairs[0] / (judgements * len(gold_labels))
    if not _copies(first_said, second_said):
        wins, losses = (float(counts @ np.maximum(side * weights, 0)) * num_clusters for side in (1, -1))
        low, high = _tango_widened(low, high, wins, losses, num_clusters)
    std = float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None
    return PairedTest(Estimate(float(counts @ weights), low, high, std), mcnemar(right, other, of))


def mcnemar(first_right: ArrayLike, second_right: ArrayLike, clusters: ArrayLike | None = None) -> float:
    """McNemar's exact test: two-sided binomial p-value of the examples that only one of two systems gets right.

    With several seeds an example counts for the system of which the larger share of seeds is right, and for neither
    where the shares are equal (the sign test, which McNemar's is with one seed). Likewise copies of a text count as one
    example, for the system that is right about more of them. No mid-p correction: errors of the first kind stay at or
    below the level.

    Args:
        first_right: Whether the first system is right, bool [num_test] or [seeds, num_test].
        second_right: Likewise for the second.
        clusters: As in :func:`score_predictions`.
    """
    first, second = np.atleast_2d(np.asarray(first_right, bool)), np.atleast_2d(np.asarray(second_right, bool))
    signed = _signed(first, second, *_numbers(clusters, first.shape[1]))
    wins, losses = int((signed > 0).sum()), int((signed < 0).sum())
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down correction: p-values that may each be held against one level for all tests together.

    Raises:
        DiptychError: A value is no probability.
    """
    given = np.asarray(p_values, np.float64)
    if not ((given >= 0) & (given <= 1)).all():
        raise DiptychError(f"p-values {list(p_values)}: must be from 0 to 1")
    order = np.argsort(given, kind="stable")
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(given[order] * np.arange(len(given), 0, -1)))
    return tuple(float(value) for value in adjusted)


def confusion(gold: ArrayLike, predictions: ArrayLike, num_classes: int) -> NDArray[np.int64]:
    """Counts [num_classes, num_classes] of one seed: a row per gold label, a column per predicted one."""
    gold_labels, said = _labels(gold, predictions, num_classes)
    cells = np.bincount(gold_labels * num_classes + said[0], minlength=num_classes**2)
    return cells.reshape(num_classes, num_classes).astype(np.int64)


def _labels(
    gold: ArrayLike, predictions: ArrayLike, num_classes: int | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Gold [num_test] and predictions [seeds, num_test], checked."""
    gold_labels, said = np.asarray(gold), np.atleast_2d(np.asarray(predictions))
    if gold_labels.ndim != 1 or not gold_labels.size or said.ndim != 2 or said.shape[1] != gold_labels.size:
        raise DiptychError(f"predictions of shape {said.shape} for gold labels {gold_labels.shape}: one per label")
    both = np.concatenate([gold_labels, said.ravel()])
    if not np.issubdtype(both.dtype, np.integer) or (num_classes and not (0 <= both.min() <= both.max() < num_classes)):
        raise DiptychError(f"labels and predictions must be integers from 0 to {(num_classes or 0) - 1}")
    return gold_labels.astype(np.int64), said.astype(np.int64)


def _numbers(clusters: ArrayLike | None, count: int) -> tuple[NDArray[np.int64], int]:
    """The cluster of each example, numbered from 0 [num_test], and their number."""
    if clusters is None:
        return np.arange(count), count
    known, numbers = np.unique(np.asarray(clusters), return_inverse=True)
    if numbers.shape != (count,):
        raise DiptychError(f"clusters of shape {numbers.shape} for {count} examples: one per example")
    return numbers.astype(np.int64), len(known)


def _signed(
    first: NDArray[np.bool_], second: NDArray[np.bool_], clusters: NDArray[np.int64], num_clusters: int
) -> NDArray[np.int64]:
    """By how many judgements the first system is ahead in each cluster: seeds of it times seeds of the other."""
    ahead = first.sum(axis=0) * len(second) - second.sum(axis=0) * len(first)
    found = np.zeros(num_clusters, np.int64)
    np.add.at(found, clusters, ahead)
    return found


def _cluster_patterns(
    pattern_of: NDArray[np.int64], clusters: tuple[NDArray[np.int64], int]
) -> tuple[csr_array, NDArray[np.int64]]:
    """What different clusters hold, [kinds, patterns], and how many clusters are of each kind."""
    of, num_clusters = clusters
    rows = (np.ones(len(of)), (of, pattern_of.ravel()))
    held = csr_array(rows, shape=(num_clusters, int(pattern_of.max()) + 1))
    held.sum_duplicates()
    known: dict[tuple[bytes, bytes], int] = {}
    kinds = [
        known.setdefault((held.indices[start:stop].tobytes(), held.data[start:stop].tobytes()), cluster)
        for cluster, (start, stop) in enumerate(pairwise(held.indptr.tolist()))
    ]
    firsts, numbers = np.unique(kinds, return_counts=True)
    # In the order of the patterns: without copies the kinds are the patterns.
    order = np.lexsort((firsts, held.indices[held.indptr[firsts]]))
    return held[firsts[order]], numbers[order]


def _resampled(counts: NDArray[np.int64], resamples: int, seed: int, width: int = 1) -> Iterator[Array]:
    """How often each pattern is drawn, blocks of [resamples, patterns]; ``width``: entries made of each row."""
    generator, total = np.random.default_rng(seed), int(counts.sum())
    block = max(1, _BLOCK // max(len(counts), width))
    for start in range(0, resamples, block):
        yield generator.multinomial(total, counts / total, size=min(block, resamples - start)).astype(np.float64)


def _estimate(by_seed: Array, drawn: Array) -> Estimate:
    low, high = _interval(drawn)
    return Estimate(float(by_seed.mean()), low, high, float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None)


def _widened(accuracy: Estimate, count: int) -> Estimate:
    """With Wilson's interval, where few examples are wrong or right."""
    share = accuracy.value
    if round(count * min(share, 1 - share), 6) >= FEW:
        return accuracy
    middle, shrink = share + _Z**2 / (2 * count), 1 + _Z**2 / count
    half = _Z * math.sqrt(share * (1 - share) / count + (_Z / (2 * count)) ** 2)
    low, high = (middle - half) / shrink, (middle + half) / shrink
    return replace(accuracy, low=max(0.0, min(accuracy.low, low)), high=min(1.0, max(accuracy.high, high)))


def _copies(first: NDArray[np.int64], second: NDArray[np.int64]) -> bool:
    """Whether each example is given each label by equal shares of the seeds [seeds, num_test] of both."""
    one, other = np.repeat(first, len(second), axis=0), np.repeat(second, len(first), axis=0)
    return np.array_equal(np.sort(one, axis=0), np.sort(other, axis=0))


def _tango_widened(low: float, high: float, wins: float, losses: float, count: int) -> tuple[float, float]:
    """With Tango's interval, where few examples fall outside the commonest of win, loss and tie.

    The limits are where his score is ±z. Put into his quadratic equation for the probability of a loss, this is a
    quartic in the difference, of which they are the outermost real roots: the roots that squaring adds, with the other
    solution of the quadratic and so a smaller variance, lie between them.
    """
    if round(count - max(wins, losses, count - wins - losses), 6) >= FEW:
        return low, high
    difference = Polynomial([0.0, 1.0])
    tied = difference * (1 - difference)
    excess = (wins - losses - count * difference) ** 2 / (_Z**2 * count) - tied  # twice the probability of a loss
    linear = (2 * count - wins + losses) * difference - wins - losses
    roots = (count * excess**2 + linear * excess - 2 * losses * tied).roots()
    limits = roots[np.isreal(roots)].real.clip(-1, 1)
    return float(min(low, *limits)), float(max(high, *limits))


def _interval(drawn: Array) -> tuple[float, float]:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def _class_sums(gold: NDArray[np.int64], said: NDArray[np.int64], num_classes: int) -> tuple[csr_array, csr_array]:
    """[patterns, classes] each: what turns numbers of draws into hits, and into occurrences (gold + predicted).

    Sparse, with at most two entries a pattern: time and memory do not grow with the square of the classes.
    """
    rows, shape = np.arange(len(gold)), (len(gold), num_classes)
    hits = csr_array(((gold == said).astype(np.float64), (rows, gold)), shape)
    both = np.concatenate([rows, rows]), np.concatenate([gold, said])
    return hits, csr_array((np.ones(2 * len(gold)), both), shape)


def _scores(hits: Array, occurrences: Array) -> Array:
    """[draws, classes] each -> accuracy and macro-F1 [2, draws]."""
    accuracy = 2 * hits.sum(axis=1) / occurrences.sum(axis=1)  # each example occurs twice
    macro_f1 = (2 * hits / np.maximum(occurrences, 1)).sum(axis=1) / (occurrences > 0).sum(axis=1)
    return np.stack([accuracy, macro_f1])
