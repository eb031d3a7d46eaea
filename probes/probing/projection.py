"""A picture of a representation: two principal components of some of its texts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from pretrain.probing.sampling import stratified_order
from pretrain.runtime.errors import DiptychError

POINTS = 500


@dataclass(frozen=True)
class Projection:
    """Points of a picture.

    Attributes:
        rows: Numbers of the texts shown, int64 [points], ascending.
        points: Their coordinates, float64 [points, 2].
    """

    rows: NDArray[np.int64]
    points: NDArray[np.float64]


def project(
    x: NDArray[np.floating[Any]], labels: NDArray[np.int64], *, points: int = POINTS, seed: int = 0
) -> Projection:
    """Projects a stratified sample of texts on the first two principal components of that sample.

    An axis points to where its largest weight is positive, so that equal data give equal pictures. Where there is no
    second direction, its coordinates are 0.

    Args:
        x: Representations [texts, width].
        labels: By which the sample is stratified [texts].
        points: Texts to show at most.
        seed: Of the sample.

    Raises:
        DiptychError: No texts, shapes that do not fit, or values that are not finite.
    """
    if x.ndim != 2 or not x.size or len(labels) != len(x):
        raise DiptychError(f"projection: representations of shape {x.shape} for {len(labels)} labels; one per text")
    rows = np.sort(stratified_order(labels, seed)[:points])
    sample = x[rows].astype(np.float64)
    if not np.isfinite(sample).all():
        raise DiptychError("projection: NaN or infinite values; look at the model's weights and dtype")
    centred = sample - sample.mean(axis=0)
    shown = np.zeros((len(rows), 2))
    directions = min(2, *sample.shape)
    if np.square(centred).sum() > 0:
        pca = PCA(directions, svd_solver="full").fit(sample)
        weights = pca.components_
        largest = np.abs(weights).argmax(axis=1)
        signs = np.sign(weights[np.arange(directions), largest])
        shown[:, :directions] = centred @ (weights * signs[:, None]).T
    return Projection(rows=rows, points=shown)
