"""Which rows make up a step, and which of them this rank computes.

Rows of all epochs form one endless stream, window after window; step s takes the next ``rows_per_step`` of it, row r
of a step goes to rank ``r mod world_size``. The only state is the step number. Where a step does not divide evenly, the
missing places are empty rows, so any number of ranks computes the same losses.

The row at which a window starts follows from the windows before it. They are counted, not packed, and a :class:`Cursor`
spares a resumed run even that.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pretrain.data.branches import BoolArray, IntArray
from pretrain.data.corpus import Pairs
from pretrain.data.packing import PackingPlan
from pretrain.runtime.errors import DiptychError

COUNTED_WINDOWS = 64
"""Windows that are counted to know how many rows some epochs have; beyond that the number is extrapolated."""


class Planner(Protocol):
    """Gives the packing plans of windows; :class:`pretrain.data.packing.WindowPlanner` is one."""

    @property
    def starts(self) -> IntArray:
        """Records of an epoch before each of its windows, and in all; shape [windows + 1]."""

    def plan(self, epoch: int, window: int) -> PackingPlan:
        """The plan of a window; a pure function of the arguments."""

    def count_rows(self, epoch: int, window: int) -> int:
        """The number of its rows."""


@dataclass(frozen=True)
class Cursor:
    """Where a window starts in the stream of rows: a shortcut that changes no row.

    Attributes:
        row: Number in the stream of its first row.
        window: Number of the window, counted through all epochs.
    """

    row: int = 0
    window: int = 0


@dataclass(frozen=True, eq=False)
class PackedRow:
    """One row of the stream.

    Attributes:
        epoch: Epoch of its window.
        window: Number of the window in the epoch.
        index: Number of the row in the window.
        examples: Record numbers; shape [examples].
        pairs: The pair of each.
        branched: Whether each is branched; shape [examples].
        group: Group that their pairs belong to.
    """

    epoch: int
    window: int
    index: int
    examples: IntArray
    pairs: Pairs
    branched: BoolArray
    group: int


@dataclass(frozen=True)
class MicroBatch:
    """What one rank computes in one forward pass.

    Attributes:
        rows: This rank's rows; None is an empty row.
        label_capacity: Most label tokens that any rank has here; every rank calls the LM head for this many, because
            under ZeRO-3 each call is a collective.
        pair_capacity: Most branched pairs that any rank has here.
    """

    rows: tuple[PackedRow | None, ...]
    label_capacity: int
    pair_capacity: int


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        index: Number of the step, from 0.
        num_labels: Label tokens of the step over all ranks: what the LM loss is divided by.
        num_pairs: Pairs of the step over all ranks, those without branches included: what D is divided by.
        micro_batches: This rank's share.
        epoch: Epochs consumed when the step is done.
        cursor: A shortcut to the step after this one.
        num_tokens: Tokens of the step over all ranks: what a load-balancing loss is divided by.
    """

    index: int
    num_labels: int
    num_pairs: int
    micro_batches: tuple[MicroBatch, ...]
    epoch: float = 0.0
    cursor: Cursor = Cursor()
    num_tokens: int = 0


class Schedule:
    """Cuts the stream of rows into steps for one rank."""

    def __init__(
        self,
        planner: Planner,
        *,
        rows_per_step: int,
        micro_batch_rows: int,
        rank: int,
        world_size: int,
        group_rows: int = 1,
    ) -> None:
        self.rows_per_step = rows_per_step
        self.rank = rank
        self.world_size = world_size
        self.micro_batch_rows = min(micro_batch_rows, math.ceil(rows_per_step / world_size))
        self.accumulation = math.ceil(rows_per_step / (world_size * self.micro_batch_rows))
        self.group_rows = group_rows
        together = world_size * self.micro_batch_rows
        if self.accumulation > 1 and together % group_rows:
            raise DiptychError(
                f"objective.group_rows: a group of {group_rows} rows would be spread over accumulation steps of "
                f"{together} rows (train.micro_batch_rows {self.micro_batch_rows} x {world_size} ranks); raise "
                f"train.micro_batch_rows to a multiple of {group_rows} / {world_size} or lower the group"
            )
        self._planner = planner
        self._num_windows = len(planner.starts) - 1
        self._plans: dict[int, PackingPlan] = {}
        self.start_from(Cursor())

    @property
    def empty_share(self) -> float:
        """Share of computed rows that are empty because the step does not divide evenly."""
        return 1 - self.rows_per_step / (self.accumulation * self.world_size * self.micro_batch_rows)

    def start_from(self, cursor: Cursor) -> None:
        """Takes a shortcut to the steps from a cursor on; those before are still found, by counting from the start."""
        self._base = cursor.window
        self._first_rows = [cursor.row]  # of window base, base + 1, ...

    def plan(self, window: int) -> PackingPlan:
        """The packing plan of a window, counted through all epochs (the last two are kept)."""
        if window not in self._plans:
            self._plans = {key: plan for key, plan in self._plans.items() if key == window - 1}
            self._plans[window] = self._planner.plan(*divmod(window, self._num_windows))
        return self._plans[window]

    def rows_per_epoch(self) -> tuple[int, bool]:
        """Rows of the first epoch, and whether that is exact: of a large one, part of the windows is counted."""
        starts = self._planner.starts
        if self._num_windows <= COUNTED_WINDOWS:
            return self._first_row(self._num_windows), True
        counted = np.arange(COUNTED_WINDOWS) * self._num_windows // COUNTED_WINDOWS
        rows = sum(self._planner.count_rows(0, int(window)) for window in counted)
        return round(rows * int(starts[-1]) / int((starts[counted + 1] - starts[counted]).sum())), False

    def num_steps(self, epochs: float) -> int:
        """Steps that consume so many epochs; the last step is filled up from the epoch after.

        Of many windows it is extrapolated: then it may miss the end of the last epoch by a small part of it.
        """
        starts = self._planner.starts
        whole = int(epochs)
        consumed = (epochs - whole) * int(starts[-1])
        last = bisect_right(starts.tolist(), consumed, hi=self._num_windows) - 1
        window = whole * self._num_windows + last
        if window > COUNTED_WINDOWS:
            rows = math.ceil(epochs * self.rows_per_epoch()[0])
        else:
            rows = self._first_row(window)
            if consumed > starts[last]:
                share = (consumed - int(starts[last])) / int(starts[last + 1] - starts[last])
                rows += math.ceil(share * self._num_rows(window))
        return max(1, math.ceil(rows / self.rows_per_step))

    def epoch_of(self, step: int) -> float:
        """Epochs consumed before a step."""
        window, index = self._locate(step * self.rows_per_step)
        epoch, number = divmod(window, self._num_windows)
        start, stop, total = (int(self._planner.starts[place]) for place in (number, number + 1, -1))
        num_rows = self._first_row(window + 1) - self._first_row(window)
        return epoch + (start + (stop - start) * index / num_rows) / total

    def step(self, index: int) -> Step:
        """The rows of one step and this rank's share of them."""
        places = self.accumulation * self.world_size * self.micro_batch_rows
        labels, pairs, branched, tokens = np.zeros((4, places), dtype=np.int64)
        own: list[PackedRow | None] = []
        window, number = self._locate(index * self.rows_per_step)
        place = 0
        while place < self.rows_per_step:
            plan = self.plan(window)
            count = min(self.rows_per_step - place, plan.num_rows - number)
            chosen, found = slice(place, place + count), slice(number, number + count)
            labels[chosen] = plan.num_labels[found]
            pairs[chosen] = np.diff(plan.offsets)[found]
            branched[chosen] = plan.num_branched[found]
            tokens[chosen] = plan.num_tokens[found]
            own += [
                self._row(window, number + inside, place + inside)
                for inside in range((self.rank - place) % self.world_size, count, self.world_size)
            ]
            place, window, number = place + count, window + 1, 0
        own += [None] * (places // self.world_size - len(own))
        label_loads, pair_loads = self._loads(labels), self._loads(branched)
        following, _ = self._locate((index + 1) * self.rows_per_step)
        return Step(
            index,
            int(labels.sum()),
            int(pairs.sum()),
            tuple(
                MicroBatch(
                    tuple(own[number * self.micro_batch_rows : (number + 1) * self.micro_batch_rows]),
                    int(label_loads[number]),
                    int(pair_loads[number]),
                )
                for number in range(self.accumulation)
            ),
            self.epoch_of(index + 1),
            Cursor(self._first_row(following), following),
            int(tokens.sum()),
        )

    def _row(self, window: int, index: int, place: int) -> PackedRow:
        examples, pairs, branched = self.plan(window).row(index)
        epoch, number = divmod(window, self._num_windows)
        return PackedRow(epoch, number, index, examples, pairs, branched, place // self.group_rows)

    def _loads(self, counts: IntArray) -> IntArray:
        """Largest sum over ranks for each micro-batch."""
        shape = (self.accumulation, self.micro_batch_rows, self.world_size)
        loads: IntArray = counts.reshape(shape).sum(axis=1).max(axis=1)
        return loads

    def _num_rows(self, window: int) -> int:
        if window in self._plans:
            return self._plans[window].num_rows
        return self._planner.count_rows(*divmod(window, self._num_windows))

    def _first_row(self, window: int) -> int:
        """Number in the stream of a window's first row."""
        if window < self._base:
            self.start_from(Cursor())
        while len(self._first_rows) <= window - self._base:
            self._first_rows.append(self._first_rows[-1] + self._num_rows(self._base + len(self._first_rows) - 1))
        return self._first_rows[window - self._base]

    def _locate(self, row: int) -> tuple[int, int]:
        """Window and number within it of a row of the stream."""
        if row < self._first_rows[0]:
            self.start_from(Cursor())
        window = self._base + bisect_right(self._first_rows, row) - 1
        while self._first_row(window + 1) <= row:
            window += 1
        return window, row - self._first_row(window)
