"""The shape of a cloud of representations, how near paired texts lie, and how alike two clouds are.

Everything goes through sums over rows, taken in float64 block by block: the memory is that of a [width, width] matrix
and a block of rows, whatever the number of texts. A [texts, texts] matrix is taken only where that is the smaller one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.runtime.errors import DiptychError

_ROWS = 4096  # of a block
_COSINES = 1 << 23  # entries of a block of cosines: 32 MB
_EQUAL = 1e-6  # rows that differ by less of their length are equal
_TIE = 1e-6  # cosines in float32 that are nearer than this are equal

Matrix = NDArray[np.floating[Any]]
Array = NDArray[np.float64]


@dataclass(frozen=True)
class PairScores:
    """How well a representation brings paired texts together.

    Attributes:
        margin: Mean cosine of pairs minus that of non-pairs.
        retrieval: Share of views whose partner is the nearest of all texts of the other side.
        mrr: Mean reciprocal rank of the partner among them.
    """

    margin: float
    retrieval: float
    mrr: float


def rankme(x: Matrix) -> float:
    """RankMe (arXiv 2210.02885): exp of the entropy of the singular values of x [texts, width], as shares of their sum.

    As in the paper the rows are not centred: a common offset takes a share of its own and lowers the rank. From 1
    (all rows on one line through the origin; also where all are zero) to min(texts, width): give more texts than
    dimensions, and compare at equal numbers of texts. The paper's 1e-7 against log 0 is not needed.

    Raises:
        DiptychError: Fewer than two rows, or values that are not finite.
    """
    _check(x, "rankme")
    # The smaller of the two Gram matrices has the same non-zero eigenvalues.
    gram = _product(x, x) if len(x) >= x.shape[1] else _rows_product(x)
    eigenvalues = np.linalg.eigvalsh(gram)
    # Rounding leaves about this much in empty directions, of which the root would look like a direction in use.
    eigenvalues[eigenvalues < eigenvalues[-1] * len(gram) * np.finfo(np.float64).eps] = 0.0
    singular = np.sqrt(eigenvalues[eigenvalues > 0])
    if not len(singular):
        return 1.0
    shares = singular / singular.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def isotropy(x: Matrix) -> float:
    """IsoScore (arXiv 2108.07344) of x [texts, width]: 0 where one direction has all variance, 1 where all have equal.

    The paper's steps (variances along the principal axes, scaled to length √d, their distance to all ones, rescaled)
    come to (r − 1) / (d − 1) with the participation ratio r = (Σ λ)² / Σ λ² of the eigenvalues of the covariance:
    about the share of directions in use. Rows are centred, so it does not see a common offset (anisotropy does). With
    few texts it is too low, as it cannot exceed (texts − 2) / (width − 1).

    Returns:
        0 to 1; 0 where all rows are equal.

    Raises:
        DiptychError: Fewer than two rows, fewer than two columns, or values that are not finite.
    """
    _check(x, "isotropy")
    if x.shape[1] < 2:
        raise DiptychError("isotropy: representations of one dimension have no directions to compare; give wider ones")
    centre = _mean(x)
    covariance = _product(x, x, centre, centre)
    total, squares = np.trace(covariance), np.square(covariance).sum()
    if _equal_rows(total, centre, len(x)):
        return 0.0
    return float(np.clip((total**2 / squares - 1) / (x.shape[1] - 1), 0.0, 1.0))


def anisotropy(x: Matrix) -> float:
    """Mean cosine of two different rows of x [texts, width], exactly: (|Σ u|² − Σ |u|²) / (n (n − 1)).

    About 0 for directions spread evenly, 1 for a collapsed representation; a zero row has cosine 0 with all others.

    Raises:
        DiptychError: Fewer than two rows, or values that are not finite.
    """
    _check(x, "anisotropy")
    total, squares = np.zeros(x.shape[1]), 0.0
    for rows in _blocks(len(x)):
        units = _units(x[rows])
        total += units.sum(axis=0)
        squares += float(np.square(units).sum())
    return float((total @ total - squares) / (len(x) * (len(x) - 1)))


def pair_scores(first: Matrix, second: Matrix) -> PairScores:
    """Margin and retrieval of the pairs (first[i], second[i]), by cosine.

    Retrieval is taken in both directions, each view against all views of the other side. Where the partner ties with
    other texts (cosines within 1e-6), both figures are what they come to on average if ties are broken by lot: texts
    that occur twice cost nobody's advantage, and a collapsed representation scores chance, 1 / pairs, not 1.
    Time grows with the square of the number of pairs; the memory does not.

    Args:
        first: One view of every pair [pairs, width].
        second: The other [pairs, width].

    Raises:
        DiptychError: Shapes that differ, fewer than two pairs, or values that are not finite.
    """
    _check(first, "pairs")
    _check(second, "pairs")
    if first.shape != second.shape:
        raise DiptychError(f"pairs: views of shapes {first.shape} and {second.shape}; give one row of each per pair")
    count = len(first)
    left, right = (_unit_rows(view) for view in (first, second))
    partner = np.einsum("ij,ij->i", left, right)
    paired = float(partner.sum(dtype=np.float64))
    everything = float(left.sum(axis=0, dtype=np.float64) @ right.sum(axis=0, dtype=np.float64))
    nearer, level = np.zeros((2, count), np.int64), np.zeros((2, count), np.int64)
    block = max(1, _COSINES // count)
    for start in range(0, count, block):
        rows = slice(start, start + block)
        cosines = left[rows] @ right.T
        for side, goal, axis in ((0, partner[rows, None], 1), (1, partner[None], 0)):
            mine = rows if side == 0 else slice(None)
            above = (cosines > goal + _TIE).sum(axis=axis)
            nearer[side, mine] += above
            level[side, mine] += (cosines >= goal - _TIE).sum(axis=axis) - above
    level = np.maximum(level - 1, 0)  # the partner itself
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 2 * count + 1))])
    return PairScores(
        margin=paired / count - (everything - paired) / (count * (count - 1)),
        retrieval=float(np.mean((nearer == 0) / (level + 1))),
        mrr=float(np.mean((harmonic[nearer + level + 1] - harmonic[nearer]) / (level + 1))),
    )


def linear_cka_matrix(first: Sequence[Matrix], second: Sequence[Matrix]) -> Array:
    """Debiased linear CKA between all representations of two models on the same texts.

    Centred kernel alignment with linear kernels (arXiv 1905.00414) from the unbiased estimate of HSIC (Song et al.
    2012), as in arXiv 2010.15327: the plain estimate gives unrelated representations about width / (texts + width),
    this one 0 on average. Rotation, shift and scale change nothing. Computed from [width, width] products; between
    representations wider than the number of texts from their [texts, texts] kernels, each of which is made once.

    Args:
        first: Representations [texts, width], such as the layers of one model; widths may differ.
        second: Of the other model.

    Returns:
        [len(first), len(second)], each from −1 to 1; 1 for a representation and itself; 0 with a collapsed one.

    Raises:
        DiptychError: Different numbers of texts, fewer than four, or values that are not finite.
    """
    everything = [*first, *second]
    for x in everything:
        _check(x, "CKA", at_least=4)
    if len({len(x) for x in everything}) > 1:
        raise DiptychError(f"CKA: representations of {sorted({len(x) for x in everything})} texts; give the same texts")
    # Equal arrays of both sides are summed up once.
    sides = {id(x): _Side(x) for x in everything}
    return np.array([[_similarity(sides[id(x)], sides[id(y)]) for y in second] for x in first])


class _Side:
    """What CKA needs of one representation: centre, kernel if that is smaller, its diagonal, and its own HSIC."""

    def __init__(self, x: Matrix) -> None:
        self.x, self.centre = x, _mean(x)
        # Of centred rows: they sum to zero, so that the kernel without its diagonal has the row sums −|x|².
        self.lengths = np.concatenate([np.square(x[rows] - self.centre).sum(axis=1) for rows in _blocks(len(x))])
        self.kernel = _rows_product(x - self.centre) if len(x) < x.shape[1] else None
        self.own = 0.0 if _equal_rows(self.lengths.sum(), self.centre, len(x)) else _hsic(self, self)


def _similarity(first: _Side, second: _Side) -> float:
    if first.own <= 0 or second.own <= 0:
        return 0.0
    return float(np.clip(_hsic(first, second) / np.sqrt(first.own * second.own), -1.0, 1.0))


def _hsic(first: _Side, second: _Side) -> float:
    """Unbiased HSIC times n (n − 3): the kernels K and L without their diagonals, of centred rows."""
    count = len(first.x)
    across = first.lengths @ second.lengths
    if first.kernel is None or second.kernel is None:
        trace = np.square(_product(first.x, second.x, first.centre, second.centre)).sum() - across
    else:
        trace = np.vdot(first.kernel, second.kernel) - across
    sums = first.lengths.sum() * second.lengths.sum() / ((count - 1) * (count - 2))
    return float(trace + sums - 2 * across / (count - 2))


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _ROWS):
        yield slice(start, start + _ROWS)


def _mean(x: Matrix) -> Array:
    centre: Array = x.mean(axis=0, dtype=np.float64)
    return centre


def _product(x: Matrix, y: Matrix, x_centre: Array | float = 0.0, y_centre: Array | float = 0.0) -> Array:
    """(x − x_centre)ᵀ (y − y_centre) in float64 [width of x, width of y]."""
    product = np.zeros((x.shape[1], y.shape[1]))
    for rows in _blocks(len(x)):
        left = x[rows].astype(np.float64) - x_centre
        product += left.T @ (left if y is x else y[rows].astype(np.float64) - y_centre)
    return product


def _rows_product(x: Matrix) -> Array:
    wide = x.astype(np.float64)
    product: Array = wide @ wide.T
    return product


def _equal_rows(spread: float, centre: Array, count: int) -> bool:
    """Whether the sum of squared distances to the centre is no more than float32 encoding leaves of equal texts."""
    return bool(spread <= _EQUAL**2 * (spread + count * (centre @ centre)))


def _units(rows: Matrix) -> Array:
    """Rows of length 1, float64; zero rows stay."""
    wide = rows.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units: Array = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return units


def _unit_rows(x: Matrix) -> NDArray[np.float32]:
    units = np.empty(x.shape, np.float32)
    for rows in _blocks(len(x)):
        units[rows] = _units(x[rows])
    return units


def _check(x: Matrix, place: str, at_least: int = 2) -> None:
    if x.ndim != 2 or len(x) < at_least or not x.shape[1]:
        raise DiptychError(f"{place}: representations of shape {x.shape}; give at least {at_least} texts")
    if not all(np.isfinite(x[rows]).all() for rows in _blocks(len(x))):
        raise DiptychError(f"{place}: NaN or infinite values; look at the model's weights and dtype")
