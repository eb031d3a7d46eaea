"""The packing plan: which examples share a row, in which order, with which branches.

A pure function of (corpus lengths, seed, epoch, row length, layout, loss dropout). It knows neither ranks nor
accumulation, so the data order of a run is the same on any machine; ``schedule.py`` cuts it into steps and ranks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.branches import BoolArray, Branches, IntArray

WINDOW = 16_384
"""Examples that are packed together: bounds memory and time, and costs at most one partly filled row per window."""


@dataclass(frozen=True)
class PackingPlan:
    """Rows of one epoch.

    Attributes:
        offsets: Row r holds the examples ``examples[offsets[r]:offsets[r + 1]]``; shape [rows + 1].
        examples: Example numbers; shape [examples].
        branched: Whether each of them has its branches laid out; shape [examples].
        num_tokens: Occupied positions of each row; shape [rows].
        num_labels: Label tokens of each row; shape [rows].
    """

    offsets: IntArray
    examples: IntArray
    branched: BoolArray
    num_tokens: IntArray
    num_labels: IntArray

    @property
    def num_rows(self) -> int:
        """Rows of the epoch."""
        return len(self.offsets) - 1

    def row(self, index: int) -> tuple[IntArray, BoolArray]:
        """Examples of one row and whether each is branched."""
        chosen = slice(self.offsets[index], self.offsets[index + 1])
        return self.examples[chosen], self.branched[chosen]


def plan_epoch(
    lengths: IntArray,
    complete: BoolArray,
    branches: Branches,
    row_length: int,
    *,
    seed: int,
    epoch: int,
    branched: bool,
    dropout: float = 0.0,
    reserve_branches: bool = False,
) -> PackingPlan:
    """Packs every example of the corpus exactly once.

    Args:
        lengths: Tokens of the two views of each example; shape [examples, 2].
        complete: Whether each view is whole; shape [examples, 2].
        branches: The layout.
        row_length: Positions of a row; every example fits (``prepare.py`` truncates views).
        seed: Seed of the run.
        epoch: Number of the pass over the corpus; changes order and dropout.
        branched: Whether the objective needs branches at all.
        dropout: Share of examples without branches.
        reserve_branches: Give every example the room of its branches, laid out or not.
    """
    count = len(lengths)
    order = np.argsort(random_keys(seed, "order", epoch, count), kind="stable")
    with_branches = np.full(count, branched)
    if branched and dropout:
        with_branches = random_keys(seed, "dropout", epoch, count) >= np.uint64(int(dropout * 2**64))
    full = branches.num_tokens(lengths, branched=True)
    sizes = np.where(with_branches, full, branches.num_tokens(lengths, branched=False))
    room = full if reserve_branches else sizes
    if count and room.max() > row_length:
        worst = int(room.argmax())
        raise ValueError(f"example {worst} takes {room[worst]} positions, a row has {row_length}")
    rows: list[list[int]] = []
    for window, start in enumerate(range(0, count, WINDOW)):
        packed = _best_fit(order[start : start + WINDOW], room, row_length)
        shuffled = np.argsort(random_keys(seed, f"rows of window {window}", epoch, len(packed)), kind="stable")
        rows += [packed[index] for index in shuffled]
    examples = np.array([example for row in rows for example in row], dtype=np.int64)
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows], dtype=np.int64)]).astype(np.int64)
    labels = branches.num_labels(lengths, complete)
    return PackingPlan(
        offsets=offsets,
        examples=examples,
        branched=with_branches[examples],
        num_tokens=_row_sums(sizes[examples], offsets),
        num_labels=_row_sums(labels[examples], offsets),
    )


def _row_sums(values: IntArray, offsets: IntArray) -> IntArray:
    total = np.concatenate([[0], np.cumsum(values)])
    sums: IntArray = (total[offsets[1:]] - total[offsets[:-1]]).astype(np.int64)
    return sums


def _best_fit(order: IntArray, sizes: IntArray, row_length: int) -> list[list[int]]:
    """Best-fit decreasing: the longest example first, each into the fullest row that still takes it.

    Within a row the examples keep the order in which they were drawn, not their order by length.
    """
    rows: list[list[int]] = []
    rows_with_space: list[list[int]] = [[] for _ in range(row_length + 1)]
    occupied = 0  # bit s is set iff some row has exactly s free positions
    drawn = sizes[order]
    for rank in np.argsort(-drawn, kind="stable").tolist():
        size = int(drawn[rank])
        fitting = occupied >> size
        if fitting:
            space = size + (fitting & -fitting).bit_length() - 1
            row = rows_with_space[space].pop()
            if not rows_with_space[space]:
                occupied &= ~(1 << space)
        else:
            space, row = row_length, len(rows)
            rows.append([])
        rows[row].append(rank)
        left = space - size
        rows_with_space[left].append(row)
        occupied |= 1 << left
    return [[int(order[rank]) for rank in sorted(row)] for row in rows]


def random_keys(seed: int, purpose: str, epoch: int, count: int) -> npt.NDArray[np.uint64]:
    """One 64-bit key per index, a function of the arguments alone (SplitMix64, Steele et al. 2014).

    Written out rather than taken from numpy's generators, whose streams may change between versions: the data order
    of a run must not.
    """
    with np.errstate(over="ignore"):
        state: Any = np.uint64(seed)
        for part in [*purpose.encode(), epoch]:
            state = _mix(state + np.uint64(0x9E3779B97F4A7C15)) ^ np.uint64(part)
        return np.asarray(_mix(_mix(state) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)))


def _mix(value: npt.NDArray[np.uint64] | np.uint64) -> npt.NDArray[np.uint64]:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))
