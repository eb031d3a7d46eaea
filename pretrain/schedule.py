"""Which rows make up a step, and which of them this rank computes.

Rows of all epochs form one endless stream; step s takes the next ``rows_per_step`` of it, row r of a step goes to
rank ``r mod world_size``. The only state is the step number. Where a step does not divide evenly, the missing places
are empty rows, so any number of ranks computes the same losses.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pretrain.branches import IntArray
from pretrain.errors import DiptychError
from pretrain.packing import PackingPlan


class EpochPlanner(Protocol):
    """Gives the packing plan of an epoch."""

    def __call__(self, epoch: int) -> PackingPlan:
        """The plan; a pure function of the epoch."""


@dataclass(frozen=True)
class Row:
    """One row of the stream: examples, which of them are branched, and the group that their pairs belong to."""

    epoch: int
    index: int
    examples: tuple[int, ...]
    branched: tuple[bool, ...]
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

    rows: tuple[Row | None, ...]
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
    """

    index: int
    num_labels: int
    num_pairs: int
    micro_batches: tuple[MicroBatch, ...]
    epoch: float = 0.0


class Schedule:
    """Cuts the stream of rows into steps for one rank."""

    def __init__(
        self,
        plan_epoch: EpochPlanner,
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
        self._plan_epoch = plan_epoch
        self._plans: dict[int, PackingPlan] = {}
        self._first_rows = [0]  # first_rows[e]: number in the stream of the first row of epoch e

    @property
    def empty_share(self) -> float:
        """Share of computed rows that are empty because the step does not divide evenly."""
        return 1 - self.rows_per_step / (self.accumulation * self.world_size * self.micro_batch_rows)

    def plan(self, epoch: int) -> PackingPlan:
        """The packing plan of an epoch (the last two are kept)."""
        if epoch not in self._plans:
            self._plans = {key: plan for key, plan in self._plans.items() if key == epoch - 1}
            self._plans[epoch] = self._plan_epoch(epoch)
        return self._plans[epoch]

    def num_steps(self, epochs: float) -> int:
        """Steps that consume so many epochs; the last step is filled up from the epoch after."""
        whole = int(epochs)
        rows = self._first_row(whole) + math.ceil((epochs - whole) * self.plan(whole).num_rows)
        return max(1, math.ceil(rows / self.rows_per_step))

    def epoch_of(self, step: int) -> float:
        """Epochs consumed before a step."""
        epoch, index = self._locate(step * self.rows_per_step)
        return epoch + index / self.plan(epoch).num_rows

    def step(self, index: int) -> Step:
        """The rows of one step and this rank's share of them."""
        rows: list[Row | None] = []
        num_labels = 0
        labels: list[int] = []
        for place in range(self.rows_per_step):
            epoch, number = self._locate(index * self.rows_per_step + place)
            plan = self.plan(epoch)
            examples, branched = plan.row(number)
            rows.append(
                Row(epoch, number, tuple(examples.tolist()), tuple(branched.tolist()), place // self.group_rows)
            )
            labels.append(int(plan.num_labels[number]))
            num_labels += labels[-1]
        pairs = [sum(row.branched) for row in rows if row]
        num_pairs = sum(len(row.examples) for row in rows if row)
        places = self.accumulation * self.world_size * self.micro_batch_rows
        empty = places - len(rows)
        rows += [None] * empty
        together = self.world_size * self.micro_batch_rows
        label_loads = self._loads([*labels, *[0] * empty])
        pair_loads = self._loads([*pairs, *[0] * empty])
        return Step(
            index,
            num_labels,
            num_pairs,
            tuple(
                MicroBatch(
                    tuple(rows[start + self.rank : start + together : self.world_size]),
                    int(label_loads[start // together]),
                    int(pair_loads[start // together]),
                )
                for start in range(0, places, together)
            ),
            self.epoch_of(index + 1),
        )

    def _loads(self, counts: list[int]) -> IntArray:
        """Largest sum over ranks for each micro-batch."""
        shape = (self.accumulation, self.micro_batch_rows, self.world_size)
        loads: IntArray = np.array(counts, dtype=np.int64).reshape(shape).sum(axis=1).max(axis=1)
        return loads

    def _first_row(self, epoch: int) -> int:
        while len(self._first_rows) <= epoch:
            plan = self.plan(len(self._first_rows) - 1)
            self._first_rows.append(self._first_rows[-1] + plan.num_rows)
        return self._first_rows[epoch]

    def _locate(self, row: int) -> tuple[int, int]:
        """Epoch and number within it of a row of the stream."""
        epoch = int(np.searchsorted(self._first_rows, row, side="right")) - 1
        while self._first_row(epoch + 1) <= row:
            epoch += 1
        return epoch, row - self._first_row(epoch)
