"""How long views are: bins that suit the lengths, and a few figures."""

from dataclasses import dataclass

import numpy as np

from pretrain.data.branches import IntArray

_MOST_BINS = 20


@dataclass(frozen=True)
class Bin:
    """Lengths ``low`` to ``high``, both included, and how many there are of them."""

    low: int
    high: int
    count: int

    @property
    def title(self) -> str:
        """The lengths, for an axis."""
        return f"{self.low:,}" if self.low == self.high else f"{self.low:,}–{self.high:,}"


@dataclass(frozen=True)
class Histogram:
    """Lengths in tokens.

    Attributes:
        title: What is as long.
        bins: Without gaps, from the shortest to the longest.
        mean: Of all.
        median: Half are no longer.
        percentile_99: 99 % are no longer.
    """

    title: str
    bins: tuple[Bin, ...]
    mean: float
    median: int
    percentile_99: int
    shortest: int
    longest: int


def histogram(title: str, lengths: IntArray) -> Histogram | None:
    """Sorts lengths into at most about 20 bins; None: there are no lengths.

    The bins are equally wide, unless half of the lengths would then fall into the first two of many; then each is twice
    as wide as the one before.
    """
    if not len(lengths):
        return None
    median, percentile = (int(np.percentile(lengths, share, method="inverted_cdf")) for share in (50, 99))
    shortest, longest = int(lengths.min()), int(lengths.max())
    step = next(
        size * 10**power
        for power in range(19)
        for size in (1, 2, 5)
        if longest - shortest < _MOST_BINS * size * 10**power
    )
    start = shortest // step * step
    bins = _count(lengths, list(range(start, longest + step + 1, step)))
    if step > 1 and median < start + 2 * step:
        bins = _count(
            lengths, [2**power for power in range(max(shortest, 1).bit_length() - 1, longest.bit_length() + 1)]
        )
    return Histogram(title, bins, float(lengths.mean()), median, percentile, shortest, longest)


def _count(lengths: IntArray, edges: list[int]) -> tuple[Bin, ...]:
    places = np.searchsorted(edges, lengths, side="right") - 1
    counts = np.bincount(places, minlength=len(edges))[: len(edges) - 1].tolist()
    bins = [Bin(low, high - 1, count) for low, high, count in zip(edges, edges[1:], counts, strict=False)]
    while not bins[-1].count:
        bins.pop()
    return tuple(bins)
