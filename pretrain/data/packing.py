"""The packing plan of a window: which of its examples share a row, in which order, with which branches.

A pure function of (corpus, mixture, seed, epoch, window, row length, layout, loss dropout). It knows neither ranks nor
accumulation, so the data order of a run is the same on any machine; ``schedule.py`` cuts it into steps and ranks.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pretrain.data.branches import BoolArray, Branches, IntArray
from pretrain.data.corpus import Pairs
from pretrain.data.order import KeyArray, Order, WindowRecords, next_keys, random_keys, shuffled, sorted_places
from pretrain.runtime.errors import DiptychError


@dataclass(frozen=True)
class PackingPlan:
    """Rows of one window.

    Attributes:
        offsets: Row r holds the examples ``offsets[r]`` to ``offsets[r + 1] - 1``; shape [rows + 1].
        examples: Record numbers; shape [examples].
        pairs: The pair of each.
        branched: Whether each has its branches laid out; shape [examples].
        num_tokens: Occupied positions of each row; shape [rows].
        num_labels: Label tokens of each row; shape [rows].
        num_branched: Examples of each row with branches; shape [rows].
    """

    offsets: IntArray
    examples: IntArray
    pairs: Pairs
    branched: BoolArray
    num_tokens: IntArray
    num_labels: IntArray
    num_branched: IntArray

    @property
    def num_rows(self) -> int:
        """Rows of the window."""
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[IntArray, Pairs, BoolArray]:
        """Examples of one row, their pairs and whether each is branched."""
        chosen = slice(self.offsets[index], self.offsets[index + 1])
        return self.examples[chosen], self.pairs[chosen], self.branched[chosen]


@dataclass(frozen=True)
class OneWindow:
    """Plans an endless stream of epochs of one window that never changes."""

    window: PackingPlan

    @property
    def starts(self) -> IntArray:
        """Records before the window, and in all."""
        return np.array([0, len(self.window.examples)])

    def plan(self, epoch: int, window: int) -> PackingPlan:
        """The one plan."""
        return self.window

    def count_rows(self, epoch: int, window: int) -> int:
        """Its rows."""
        return self.window.num_rows


class PairsOfRecords(Protocol):
    """What planning needs of a :class:`pretrain.data.corpus.CorpusSplit`."""

    def pairs(self, records: IntArray, keys: KeyArray | None = None) -> Pairs:
        """The pair that each record gives."""

    def place(self, record: int) -> str:
        """Where a record was read."""


class WindowPlanner:
    """Plans the windows of a split.

    Attributes:
        starts: Records of an epoch before each of its windows, and in all; shape [windows + 1].
    """

    def __init__(
        self,
        split: PairsOfRecords,
        order: Order,
        branches: Branches,
        row_length: int,
        *,
        branched: bool,
        dropout: float = 0.0,
        reserve_branches: bool = False,
    ) -> None:
        """Reads nothing yet.

        Args:
            split: The records.
            order: Their order.
            branches: The layout.
            row_length: Positions of a row.
            branched: Whether the objective needs branches at all.
            dropout: Share of examples without branches.
            reserve_branches: Give every example the room of its branches, laid out or not.
        """
        self.split, self.order, self.branches, self.row_length = split, order, branches, row_length
        self.branched, self.dropout, self.reserve_branches = branched, dropout, reserve_branches
        self.starts = order.starts

    def plan(self, epoch: int, window: int) -> PackingPlan:
        """The plan of one window.

        Raises:
            DiptychError: A record does not fit a row.
        """
        drawn, pairs, branched = self._examples(epoch, window)
        return pack(
            drawn.records,
            pairs,
            branched,
            self.branches,
            self.row_length,
            order=self.order.shuffle(epoch, window, len(drawn.records)),
            reserve_branches=self.reserve_branches,
            keys=lambda count: random_keys(self.order.seed, f"rows of window {window}", epoch, count),
        )

    def count_rows(self, epoch: int, window: int) -> int:
        """Rows of one window, at a part of the cost of its plan.

        Raises:
            DiptychError: A record does not fit a row.
        """
        _, pairs, branched = self._examples(epoch, window)
        room = _room(self.branches, pairs, branched, self.reserve_branches)
        return count_rows(np.bincount(room), self.row_length)

    def _examples(self, epoch: int, window: int) -> tuple[WindowRecords, Pairs, BoolArray]:
        drawn = self.order.window(epoch, window)
        pairs = self.split.pairs(drawn.records, drawn.keys)
        branched = np.full(len(drawn.records), self.branched)
        if self.branched and self.dropout:
            branched = next_keys(drawn.keys) >= np.uint64(int(self.dropout * 2**64))
        room = _room(self.branches, pairs, branched, self.reserve_branches)
        if len(room) and room.max() > self.row_length:
            worst = int(room.argmax())
            raise DiptychError(
                f"{self.split.place(int(drawn.records[worst]))}: the record takes {room[worst]} positions, a row has "
                f"{self.row_length}; raise packing.row_length or lower data.max_view_tokens"
            )
        return drawn, pairs, branched


def pack(
    records: IntArray,
    pairs: Pairs,
    branched: BoolArray,
    branches: Branches,
    row_length: int,
    *,
    order: IntArray | None = None,
    reserve_branches: bool = False,
    keys: Callable[[int], KeyArray] | None = None,
) -> PackingPlan:
    """Packs every example once, by best-fit decreasing: the longest first, each into the fullest row that takes it.

    Within a row the examples keep their order of training, not their order by length.

    Args:
        records: Record numbers; shape [examples].
        pairs: Their pairs; none longer than a row.
        branched: Whether each is branched; shape [examples].
        branches: The layout.
        row_length: Positions of a row.
        order: Places of ``records`` in the order of training; None: as given.
        reserve_branches: Give every example the room of its branches, laid out or not.
        keys: Gives random numbers by which so many rows are shuffled; None: rows stay in the order of packing.
    """
    if order is None:
        order = np.arange(len(records), dtype=np.int64)
    room = _room(branches, pairs, branched, reserve_branches)[order]
    pieces, num_rows = _best_fit(np.bincount(room), row_length)
    first_row, rows, each = np.array(pieces, dtype=np.int64).reshape(-1, 3).T
    taken = rows * each
    # The examples by size, longest first, as they are dealt out to the pieces one after the other.
    by_size = sorted_places(row_length - room)
    inside = np.arange(len(room)) - np.repeat(np.cumsum(taken) - taken, taken)
    row = np.empty(len(room), np.int64)
    row[by_size] = np.repeat(first_row, taken) + inside // np.repeat(each, taken)
    if keys is not None:
        place = np.empty(num_rows, np.int64)
        place[shuffled(keys(num_rows))] = np.arange(num_rows)
        row = place[row]
    chosen = order[sorted_places(row)]
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.bincount(row, minlength=num_rows))])
    sizes = branches.num_tokens(pairs.lengths, branched=branched)
    labels = branches.num_labels(pairs.lengths, pairs.complete)
    return PackingPlan(
        offsets=offsets,
        examples=records[chosen],
        pairs=pairs[chosen],
        branched=branched[chosen],
        num_tokens=_row_sums(sizes[chosen], offsets),
        num_labels=_row_sums(labels[chosen], offsets),
        num_branched=_row_sums(branched[chosen], offsets),
    )


def count_rows(sizes: IntArray, row_length: int) -> int:
    """Rows that best-fit decreasing fills; ``sizes[s]`` examples take s positions each."""
    return _best_fit(sizes, row_length)[1]


def _room(branches: Branches, pairs: Pairs, branched: BoolArray, reserve_branches: bool) -> IntArray:
    return branches.num_tokens(pairs.lengths, branched=True if reserve_branches else branched)


def _row_sums(values: IntArray | BoolArray, offsets: IntArray) -> IntArray:
    total = np.concatenate([np.zeros(1, np.int64), np.cumsum(values, dtype=np.int64)])
    sums: IntArray = total[offsets[1:]] - total[offsets[:-1]]
    return sums


def _best_fit(sizes: IntArray, row_length: int) -> tuple[list[tuple[int, int, int]], int]:
    """Best-fit decreasing of all examples of one size at once.

    The fullest row that takes an example of some size goes on being the fullest one that takes the next of that size,
    until it takes no more. So rows with the same space, which are ranges of row numbers here, fill alike.

    Returns:
        Pieces (first row, rows, examples for each row), which take the examples longest first; and the number of rows.
    """
    free: list[list[tuple[int, int]]] = [[] for _ in range(row_length + 1)]
    occupied = 0  # bit s is set iff some row has exactly s free positions
    pieces: list[tuple[int, int, int]] = []
    num_rows = 0

    def leave(space: int, first: int, stop: int) -> None:
        nonlocal occupied
        if first < stop:
            free[space].append((first, stop))
            occupied |= 1 << space

    for size in np.flatnonzero(sizes)[::-1].tolist():
        left = int(sizes[size])
        while left:
            fitting = occupied >> size
            if fitting:
                space = size + (fitting & -fitting).bit_length() - 1
                first, stop = free[space].pop()
                if not free[space]:
                    occupied ^= 1 << space
            else:
                space, first = row_length, num_rows
                num_rows = stop = first + -(-left // (row_length // size))
            each = space // size
            full = min(stop - first, left // each)
            last = left - full * each if full < stop - first else 0  # examples of a row not filled up
            for count, rows in ((each, full), (last, 1)):
                if count and rows:
                    pieces.append((first, rows, count))
                    leave(space - count * size, first, first + rows)
                    first += rows
                    left -= rows * count
            leave(space, first, stop)
    return pieces, num_rows
