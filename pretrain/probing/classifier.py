"""One linear probe: standardise, choose the regularisation by cross-validation on train, fit, predict."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse  # type: ignore[import-untyped]
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from pretrain.runtime.errors import DiptychError

STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)  # inverse regularisation C
FOLDS = 5
STEPS = 500

# [rows, width]: a dense array, or a scipy sparse matrix (TF-IDF), which has no common type with it.
Features = Any
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class ProbeOutcome:
    """A fitted probe and what it says of the test examples.

    Attributes:
        cv_accuracy: Accuracy in cross-validation on train at the chosen strength; None where the strength was given.
        strength: Inverse regularisation C.
        converged: False where any fit, those of cross-validation included, stopped before it had converged.
        predictions: Labels, int64 [num_test].
        probabilities: What the probe gives these labels, float32 [num_test].
        accuracy: On the test examples.
    """

    cv_accuracy: float | None
    strength: float
    converged: bool
    predictions: Labels
    probabilities: NDArray[np.float32]
    accuracy: float


def fit_probe(
    train_x: Features,
    train_y: Labels,
    test_x: Features,
    test_y: Labels,
    *,
    num_classes: int,
    seed: int,
    strengths: Sequence[float] = STRENGTHS,
    strength: float | None = None,
    folds: int = FOLDS,
    clusters: Labels | None = None,
    place: str = "probe",
) -> ProbeOutcome:
    """Trains multinomial logistic regression on one representation and applies it to the test examples.

    Dense features are brought to mean 0 and variance 1 by the training rows alone; sparse ones are taken as they are.
    The problem is convex, so the seed decides nothing but the folds, and through them the strength. The linear algebra
    runs on one thread: the matrices are small, and threads that wait for a busy core cost up to 40 times the work.

    Args:
        train_x: Training features [num_train, width], dense or sparse.
        train_y: Training labels, int64 [num_train].
        test_x: Test features [num_test, width].
        test_y: Test labels, int64 [num_test].
        num_classes: Labels are 0 … num_classes − 1; train may lack some.
        seed: Of the folds.
        strengths: Inverse regularisations C to choose from.
        strength: C to take without cross-validation.
        folds: Of cross-validation; fewer where there are fewer clusters.
        clusters: Training rows with one number, such as copies of a text, are in one fold [num_train]; None: each is
            on its own.
        place: What the data are, for error messages.

    Raises:
        DiptychError: Features that are not finite or do not fit the labels, labels out of range, one class only,
            fewer training rows than classes, no test rows, or strengths that are not positive.
    """
    _check_split(train_x, train_y, num_classes, f"{place}: train")
    _check_split(test_x, test_y, num_classes, f"{place}: test")
    if train_x.shape[1] != test_x.shape[1]:
        raise DiptychError(
            f"{place}: train has {train_x.shape[1]} features, test has {test_x.shape[1]}; encode both with one model"
        )
    if len(train_y) < num_classes:
        raise DiptychError(
            f"{place}: train has {len(train_y)} rows for {num_classes} classes; give at least one per class"
        )
    if len(np.unique(train_y)) < 2:
        raise DiptychError(
            f"{place}: train has one class only, label {train_y[0]}; give examples of at least two classes"
        )
    with threadpool_limits(limits=1, user_api="blas"):
        accuracy, settled = None, True
        if strength is None:
            strength, accuracy, settled = choose_strength(
                train_x, train_y, seed=seed, strengths=strengths, folds=folds, clusters=clusters, place=place
            )
        (train_x, test_x), model = _standardised(train_x, test_x), _classifier()
        settled &= _fit(model.set_params(C=strength), train_x, train_y)
        probabilities = model.predict_proba(test_x)
        columns = probabilities.argmax(axis=1)
        predictions = model.classes_[columns].astype(np.int64)
        return ProbeOutcome(
            cv_accuracy=accuracy,
            strength=strength,
            converged=settled,
            predictions=predictions,
            probabilities=probabilities[np.arange(len(columns)), columns].astype(np.float32),
            accuracy=float(np.mean(predictions == test_y)),
        )


def choose_strength(
    x: Features,
    y: Labels,
    *,
    seed: int,
    strengths: Sequence[float],
    folds: int,
    clusters: Labels | None = None,
    place: str = "probe",
) -> tuple[float, float, bool]:
    """The strength of least log loss in stratified cross-validation; among equals the strongest regularisation.

    Not the one of highest accuracy: over a factor of 100 in C that differs by less than its noise, while the loss, of
    which the fit minimises the training value, has one clear minimum. From strong to weak regularisation, the search
    ends where the loss of all folds together rises. It holds a standardised copy of the features per fold.

    Args:
        x: Features [rows, width].
        y: Labels [rows].
        seed: Of the folds.
        strengths: Inverse regularisations C to choose from.
        folds: Their number; fewer where there are fewer clusters.
        clusters: Rows with one number, such as copies of a text, are in one fold [rows]; None: each is on its own.
        place: What the data are, for error messages.

    Returns:
        The strength, its accuracy in cross-validation, and whether every fit converged.

    Raises:
        DiptychError: ``strengths`` is empty or not positive, or there are fewer than two folds or two clusters.
    """
    if not strengths or not all(0 < strength < float("inf") for strength in strengths):
        raise DiptychError(f"{place}: strengths {list(strengths)}: must be positive numbers; give at least one")
    if folds < 2:
        raise DiptychError(f"{place}: {folds} folds: cross-validation needs at least 2")
    ordered = sorted(strengths)
    num_clusters = len(y) if clusters is None else len(np.unique(clusters))
    if num_clusters < 2:
        raise DiptychError(
            f"{place}: all {len(y)} training rows are copies of one text or of one group; cross-validation needs two"
        )
    fold_of = _folds(y, min(folds, num_clusters), seed, clusters)
    right, losses, settled = [0.0] * len(ordered), [0.0] * len(ordered), True
    parts, alone = [], 0.0
    for fold in range(int(fold_of.max()) + 1):
        held, inside = fold_of == fold, fold_of != fold
        if len(present := np.unique(y[inside])) < 2:  # the only example of a class is held out
            alone += float(np.sum(y[held] == present))
        else:
            # From strong to weak regularisation each solution is near the next: half the steps of starting at zero.
            parts.append((_classifier(warm_start=True), *_standardised(x[inside], x[held]), y[inside], y[held]))
    for index, strength in enumerate(ordered):
        for model, fitted, judged, labels, gold in parts:
            settled &= _fit(model.set_params(C=strength), fitted, labels)
            probabilities = model.predict_proba(judged)
            right[index] += float(np.sum(model.classes_[probabilities.argmax(axis=1)] == gold))
            of_gold = (probabilities * (model.classes_ == gold[:, None])).sum(axis=1)  # 0 for a class not seen inside
            losses[index] -= float(np.log(np.maximum(of_gold, 1e-7)).sum(dtype=np.float64))
        if index and losses[index] > losses[index - 1]:
            break  # it only rises from here, and weak regularisation takes most of the time
    best = int(np.argmin(losses[: index + 1]))
    return float(ordered[best]), (right[best] + alone) / len(y), settled


def _folds(y: Labels, folds: int, seed: int, clusters: Labels | None = None) -> NDArray[np.int64]:
    """The fold of each row [rows]; every class is spread evenly, whatever its size, and no cluster is divided."""
    order = np.random.default_rng(seed).permutation(len(y))
    fold_of = np.empty(len(y), np.int64)
    if clusters is None or len(np.unique(clusters)) == len(y):
        order = order[np.argsort(y[order], kind="stable")]
        fold_of[order] = np.arange(len(y)) % folds
        return fold_of
    _, of, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    _, labels, counts = np.unique(y, return_inverse=True, return_counts=True)
    # Large clusters first, as small ones can level what these leave uneven; each goes where its classes are rarest, and
    # of equal folds into the one with fewest rows. With clusters of one row this is the division above.
    order = order[np.lexsort((y[order], -sizes[of[order]]))]
    rows_of = np.split(np.argsort(of, kind="stable"), np.cumsum(sizes)[:-1])
    held = np.zeros((folds, len(counts)))  # rows of each class, as shares of the class
    totals = np.zeros(folds, np.int64)
    for cluster in dict.fromkeys(of[order].tolist()):
        rows = rows_of[cluster]
        own, number = np.unique(labels[rows], return_counts=True)
        shares = number / counts[own]
        fold = int(np.lexsort((totals, held[:, own] @ shares))[0])
        held[fold, own] += shares
        totals[fold] += len(rows)
        fold_of[rows] = fold
    return fold_of


def _standardised(fitted: Features, judged: Features) -> tuple[Features, Features]:
    """Both by the mean and variance of the first, in float32: half the time of float64, the same predictions."""
    if sparse.issparse(fitted):
        return fitted.astype(np.float32), judged.astype(np.float32)
    scaler = StandardScaler().fit(fitted)
    return scaler.transform(fitted).astype(np.float32), scaler.transform(judged).astype(np.float32)


def _classifier(warm_start: bool = False) -> Any:
    return LogisticRegression(solver="lbfgs", tol=1e-4, warm_start=warm_start)


def _fit(model: Any, x: Features, y: Labels) -> bool:
    """Fits, where it does not converge once more with ten times the steps and in float64; whether it converged."""
    for precision, steps in ((np.float32, STEPS), (np.float64, 10 * STEPS)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            model.set_params(max_iter=steps).fit(x.astype(precision, copy=False), y)
        if model.n_iter_.max() < steps and not any(issubclass(item.category, ConvergenceWarning) for item in caught):
            return True
    return False


def _check_split(x: Features, y: Labels, num_classes: int, place: str) -> None:
    if x.ndim != 2 or x.shape[0] != len(y) or not x.shape[1]:
        raise DiptychError(f"{place}: features of shape {tuple(x.shape)} for {len(y)} labels; give one row per label")
    if not len(y):
        raise DiptychError(f"{place}: no rows; give labelled examples")
    if not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= num_classes:
        raise DiptychError(f"{place}: labels must be integers from 0 to {num_classes - 1}")
    values = x.data if sparse.issparse(x) else x
    # A sum is finite only if all of its terms are, and needs no array of flags; overflow is looked at closely.
    if not np.isfinite(values.sum(dtype=np.float64)) and not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).any(axis=-1).sum()) if values.ndim == 2 else 1
        raise DiptychError(f"{place}: {bad} rows hold NaN or infinite features; look at the model's weights and dtype")
