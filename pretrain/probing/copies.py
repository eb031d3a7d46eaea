"""Which rows of a probe belong together: copies of a text, and rows of one group.

A probe that is fitted on one copy of a text and tested on another measures memory, not the representation.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import connected_components  # type: ignore[import-untyped]

Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Copies:
    """For each row the number of its text and of its cluster.

    Attributes:
        texts: int64 [rows]; copies of a text have one number. Numbers follow the first occurrence.
        clusters: int64 [rows]; rows of one cluster stay on the same side of every split. Copies of a text and rows of
            one group are connected, and a cluster is a connected component.
    """

    texts: Numbers
    clusters: Numbers

    @property
    def num_repeated(self) -> int:
        """Number of rows whose text occurs in an earlier row."""
        return len(self.texts) - len(np.unique(self.texts))

    @property
    def num_clusters(self) -> int:
        """Number of clusters."""
        return len(np.unique(self.clusters))

    def of(self, rows: Numbers | slice) -> "Copies":
        """The copies among some rows."""
        return Copies(self.texts[rows], self.clusters[rows])


def find_copies(keys: Sequence[Hashable], groups: Sequence[Hashable | None] | None = None) -> Copies:
    """Finds rows that belong together.

    Args:
        keys: Equal for copies of a text [rows].
        groups: Group of each row, None for a row without one [rows]; None if there are no groups.
    """
    texts = _numbered(keys)
    if groups is None or all(group is None for group in groups):
        return Copies(texts, texts)
    # A graph of rows and the texts and groups that they have; its connected parts are the clusters.
    named = _numbered([("row", row) if group is None else ("group", group) for row, group in enumerate(groups)])
    rows, first = np.arange(len(texts)), len(texts)
    ends = np.concatenate([first + texts, 2 * first + named])
    size = 3 * first
    graph = coo_array((np.ones(2 * first, np.int8), (np.tile(rows, 2), ends)), shape=(size, size))
    return Copies(texts, _numbered(connected_components(graph, directed=False)[1][:first].tolist()))


def _numbered(keys: Sequence[Hashable]) -> Numbers:
    """Equal keys get equal numbers, from 0 in the order of their first occurrence."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)
