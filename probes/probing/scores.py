"""Probes of one representation over train sizes and seeds, summed up as the report wants them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pretrain.probing.classifier import FOLDS, STRENGTHS, Features, Labels, ProbeOutcome, fit_probe
from pretrain.probing.copies import Copies
from pretrain.probing.sampling import shuffled_labels, subset
from pretrain.runtime.errors import DiptychError
from probes.probing.statistics import RESAMPLES, score_predictions
from probes.results import Estimate, Score


@dataclass(frozen=True)
class ProbeScore:
    """Probes of one representation at one train size, one per seed.

    Attributes:
        train_size: Training examples used.
        shuffled: True where the training labels were shuffled.
        cv_accuracy: Mean over seeds; None where the strength was given.
        accuracy: On the test examples.
        macro_f1: On the test examples.
        strengths: Inverse regularisation C by seed; empty for majority.
        converged: Whether every fit of every seed converged.
        predictions: Labels, int64 [seeds, num_test].
        probabilities: What the probes give these labels, float32 [seeds, num_test].
    """

    train_size: int
    shuffled: bool
    cv_accuracy: float | None
    accuracy: Estimate
    macro_f1: Estimate
    strengths: tuple[float, ...]
    converged: bool
    predictions: NDArray[np.int64]
    probabilities: NDArray[np.float32]

    def score(self, set_name: str, system: str, layer: int | None = None, pooling: str | None = None) -> Score:
        """The row of the report."""
        return Score(
            set=set_name,
            system=system,
            shuffled=self.shuffled,
            layer=layer,
            pooling=pooling,
            train_size=self.train_size,
            seeds=len(self.predictions),
            cv_accuracy=self.cv_accuracy,
            accuracy=self.accuracy,
            macro_f1=self.macro_f1,
            strength=self.strengths[0] if self.strengths else None,
            converged=self.converged,
        )


def probe_scores(
    train_x: Features,
    train_y: Labels,
    test_x: Features,
    test_y: Labels,
    *,
    num_classes: int,
    sizes: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    shuffled: bool = False,
    strengths: Sequence[float] = STRENGTHS,
    strength: float | None = None,
    folds: int = FOLDS,
    train_copies: Copies | None = None,
    test_clusters: Labels | None = None,
    resamples: int = RESAMPLES,
    place: str = "probe",
) -> tuple[ProbeScore, ...]:
    """Trains probes on nested stratified subsets of the training examples and scores them on all test examples.

    What a seed changes: below the full train size the subset and the folds, at the full size the folds alone, as the
    problem is convex. There ``std`` shows no more than how much the choice of the strength wavers, and is 0 where all
    seeds choose one; the uncertainty that counts is the interval.

    Args:
        train_x: Features [num_train, width].
        train_y: Labels [num_train].
        test_x: Features [num_test, width].
        test_y: Labels [num_test].
        num_classes: Labels are 0 … num_classes − 1.
        sizes: Training sizes; those beyond ``num_train`` count as all. Default: all examples alone.
        seeds: One probe each per size.
        shuffled: Trains on shuffled labels. Give ``strength`` too, that of the probe with true labels: the control
            is the same probe, and cross-validation would find nothing to choose by.
        strengths: Inverse regularisations C to choose from.
        strength: C to take without cross-validation.
        folds: Of cross-validation.
        train_copies: Which training rows belong together: in one fold, and of copies one shuffled label. None: none do.
        test_clusters: Test rows that count as one [num_test], as in
            :func:`~probes.probing.statistics.score_predictions`.
        resamples: Of the bootstrap.
        place: What the data are, for error messages.

    Returns:
        One score per size, ascending.

    Raises:
        DiptychError: As :func:`~pretrain.probing.classifier.fit_probe`; or no seeds.
    """
    scores = []
    for size in used_sizes(sizes, len(train_y), place):
        outcomes = []
        for seed in seeds:
            rows = subset(train_y, size, seed)
            copies = train_copies.of(rows) if train_copies is not None else None
            labels = shuffled_labels(train_y[rows], seed, copies) if shuffled else train_y[rows]
            # All rows are taken as they lie: a copy of every representation would cost more than its probe.
            chosen = train_x if size == len(train_y) else train_x[rows]
            outcomes.append(
                fit_probe(
                    chosen,
                    labels,
                    test_x,
                    test_y,
                    num_classes=num_classes,
                    seed=seed,
                    strengths=strengths,
                    strength=strength,
                    folds=folds,
                    clusters=copies.clusters if copies is not None else None,
                    place=place,
                )
            )
        scores.append(summed(outcomes, test_y, num_classes, size, shuffled, test_clusters, resamples, place))
    return tuple(scores)


def used_sizes(sizes: Sequence[int], num_train: int, place: str) -> list[int]:
    """Distinct train sizes, ascending, none above ``num_train``; all examples where none is given.

    Raises:
        DiptychError: There are no training examples.
    """
    if not num_train:
        raise DiptychError(f"{place}: train: no rows; give labelled examples")
    return sorted({min(size, num_train) for size in sizes or (num_train,)})


def summed(
    outcomes: Sequence[ProbeOutcome],
    test_y: Labels,
    num_classes: int,
    train_size: int,
    shuffled: bool = False,
    test_clusters: Labels | None = None,
    resamples: int = RESAMPLES,
    place: str = "probe",
) -> ProbeScore:
    """The outcomes of all seeds as one score.

    Raises:
        DiptychError: There are none.
    """
    if not outcomes:
        raise DiptychError(f"{place}: no seeds; give at least one")
    predictions = np.stack([outcome.predictions for outcome in outcomes])
    tested = score_predictions(test_y, predictions, num_classes, clusters=test_clusters, resamples=resamples)
    validated = [outcome.cv_accuracy for outcome in outcomes if outcome.cv_accuracy is not None]
    return ProbeScore(
        train_size=train_size,
        shuffled=shuffled,
        cv_accuracy=float(np.mean(validated)) if validated else None,
        accuracy=tested.accuracy,
        macro_f1=tested.macro_f1,
        strengths=tuple(outcome.strength for outcome in outcomes),
        converged=all(outcome.converged for outcome in outcomes),
        predictions=predictions,
        probabilities=np.stack([outcome.probabilities for outcome in outcomes]),
    )
