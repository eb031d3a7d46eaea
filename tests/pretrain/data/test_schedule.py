"""Steps: the next rows of an endless stream, the same on any number of ranks and from any cursor."""

import dataclasses
import functools
import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data import schedule as schedule_module
from pretrain.data.branches import Branches, IntArray
from pretrain.data.mixture import Mix
from pretrain.data.order import Order
from pretrain.data.packing import PackingPlan, WindowPlanner
from pretrain.data.schedule import Cursor, MicroBatch, PackedRow, Schedule
from pretrain.runtime.errors import DiptychError
from tests.support.splits import MadeSplit

SPLIT = MadeSplit({"a": 90, "b": 30})
MIX = Mix(SPLIT.sources, ((60, 30), (30, 10)))  # windows of 45 + 45 and of 40 records


class Counting:
    """A planner that counts what it is asked."""

    def __init__(self, dropout: float = 0.3, window: int = 50, mix: Mix = MIX) -> None:
        branches = Branches("independent", eos=2, bos=1, predictors=(9,))
        order = Order(mix, 1, block=8, window=window)
        self.planner = WindowPlanner(SPLIT, order, branches, 40, branched=True, dropout=dropout)
        self.planned: list[tuple[int, int]] = []
        self.counted: list[tuple[int, int]] = []

    @property
    def starts(self) -> IntArray:
        return self.planner.starts

    def plan(self, epoch: int, window: int) -> PackingPlan:
        self.planned.append((epoch, window))
        return self.planner.plan(epoch, window)

    def count_rows(self, epoch: int, window: int) -> int:
        self.counted.append((epoch, window))
        return self.planner.count_rows(epoch, window)


@functools.cache
def plan(epoch: int, window: int) -> PackingPlan:
    return Counting().planner.plan(epoch, window)


def schedules(rows: int, micro: int, world: int, **changes: Any) -> list[Schedule]:
    return [
        Schedule(Counting(), rows_per_step=rows, micro_batch_rows=micro, rank=rank, world_size=world, **changes)
        for rank in range(world)
    ]


def one(planner: Counting, rows: int = 4) -> Schedule:
    return Schedule(planner, rows_per_step=rows, micro_batch_rows=4, rank=0, world_size=1)


def plain(value: Any) -> Any:
    """A step or row as tuples and lists, which can be compared."""
    if dataclasses.is_dataclass(value):
        return tuple(plain(getattr(value, field.name)) for field in dataclasses.fields(value))
    if isinstance(value, tuple):
        return tuple(map(plain, value))
    return value.tolist() if isinstance(value, np.ndarray) else value


def stream(count: int) -> list[tuple[int, int, int]]:
    """The first rows of all epochs, as (epoch, window, row)."""
    windows = ((epoch, window) for epoch in itertools.count() for window in range(3))
    numbered = ((*place, row) for place in windows for row in range(plan(*place).num_rows))
    return list(itertools.islice(numbered, count))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 5))
def test_a_step_takes_the_next_rows_on_any_number_of_ranks(rows: int, micro: int, world: int) -> None:
    every = schedules(rows, micro, world)
    for index in (0, 1, 6):
        expected = stream(rows * (index + 1))[-rows:]
        steps = [schedule.step(index) for schedule in every]
        by_rank = [[row for micro in step.micro_batches for row in micro.rows] for step in steps]
        assert len({len(places) for places in by_rank}) == 1
        for place, (epoch, window, number) in enumerate(expected):
            expected_row = PackedRow(epoch, window, number, *plan(epoch, window).row(number), place)
            assert plain(by_rank[place % world][place // world]) == plain(expected_row)
        assert sum(row is not None for places in by_rank for row in places) == rows  # the others are empty
        labels = sum(int(plan(*place[:2]).num_labels[place[2]]) for place in expected)
        pairs = sum(len(plan(*place[:2]).row(place[2])[0]) for place in expected)
        assert {(step.index, step.num_labels, step.num_pairs) for step in steps} == {(index, labels, pairs)}


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 30), st.integers(1, 6), st.integers(1, 7))
def test_an_epoch_of_steps_holds_what_the_mixture_says(rows: int, micro: int, world: int) -> None:
    """Nothing lost and nothing twice from windows through steps, accumulation and ranks."""
    every = schedules(rows, micro, world)
    steps = every[0].num_steps(2)
    found = [
        row
        for schedule in every
        for index in range(steps)
        for part in schedule.step(index).micro_batches
        for row in part.rows
        if row and row.epoch < 2
    ]
    examples = [example for row in found for example in row.examples]
    assert len(examples) == 2 * MIX.num_records
    seen = np.bincount(examples, minlength=120)
    assert seen[:90].tolist() == [2] * 90  # 90 of a in an epoch
    assert seen[90:].sum() == 80 and set(seen[90:].tolist()) == {2, 3}  # 40 of b's 30


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 5))
def test_capacities_are_the_most_that_any_rank_has(rows: int, micro: int, world: int) -> None:
    every = schedules(rows, micro, world)

    def labels(part: MicroBatch) -> int:
        return sum(int(plan(row.epoch, row.window).num_labels[row.index]) for row in part.rows if row)

    def pairs(part: MicroBatch) -> int:
        return sum(sum(row.branched) for row in part.rows if row)

    for parts in zip(*(schedule.step(2).micro_batches for schedule in every), strict=True):
        assert {part.label_capacity for part in parts} == {max(labels(part) for part in parts)}
        assert {part.pair_capacity for part in parts} == {max(pairs(part) for part in parts)}


@pytest.mark.parametrize(
    ("rows", "micro", "world", "accumulation", "empty"),
    [(16, 4, 1, 4, 0), (16, 4, 2, 2, 0), (16, 4, 4, 1, 0), (16, 16, 4, 1, 0), (5, 2, 2, 2, 3 / 8), (3, 8, 4, 1, 1 / 4)],
)
def test_accumulation_follows_from_rows_ranks_and_micro_batch(
    rows: int, micro: int, world: int, accumulation: int, empty: float
) -> None:
    schedule = schedules(rows, micro, world)[0]
    assert schedule.accumulation == accumulation == len(schedule.step(0).micro_batches)
    assert schedule.empty_share == pytest.approx(empty)
    assert all(len(part.rows) == schedule.micro_batch_rows for part in schedule.step(0).micro_batches)


def test_epochs_and_steps_agree() -> None:
    planner = Counting().planner
    sizes = [[planner.plan(epoch, window).num_rows for window in range(3)] for epoch in range(3)]
    schedule = schedules(7, 2, 2)[0]
    assert planner.starts.tolist() == [0, 45, 90, 130]
    assert schedule.rows_per_epoch() == (sum(sizes[0]), True)
    assert schedule.num_steps(1) == math.ceil(sum(sizes[0]) / 7)
    half = sizes[2][0] + math.ceil((65 - 45) / 45 * sizes[2][1])  # 65 of the epoch's 130 records
    assert schedule.num_steps(2.5) == math.ceil((sum(sizes[0]) + sum(sizes[1]) + half) / 7)
    assert schedule.num_steps(1e-9) == 1
    assert schedule.epoch_of(0) == 0
    row = 7 * schedule.num_steps(1) - sum(sizes[0])
    assert 0 < row < sizes[1][0]
    assert schedule.epoch_of(schedule.num_steps(1)) == pytest.approx(1 + row / sizes[1][0] * 45 / 130)
    assert schedule.step(3).epoch == schedule.epoch_of(4)


def test_epochs_rise_with_every_step() -> None:
    epochs = [schedules(3, 2, 2)[0].epoch_of(index) for index in range(80)]
    assert all(before < after < before + 0.2 for before, after in itertools.pairwise(epochs))


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(st.integers(1, 30), st.lists(st.integers(0, 60), min_size=1, max_size=4))
def test_a_resumed_schedule_starts_anywhere_with_or_without_a_cursor(rows: int, indices: list[int]) -> None:
    straight, counting = one(Counting(), rows), one(Counting(), rows)
    steps = [straight.step(index) for index in range(62)]
    assert [plain(counting.step(index)) for index in indices] == [plain(steps[index]) for index in indices]
    for index in indices:
        planner = Counting()
        resumed = one(planner, rows)
        resumed.start_from(steps[index].cursor)
        assert plain(resumed.step(index + 1)) == plain(steps[index + 1])
        assert min(planner.counted) >= divmod(steps[index].cursor.window, 3)  # nothing from before
        assert plain(resumed.step(max(0, index - 30))) == plain(steps[max(0, index - 30)])  # and back


def test_a_cursor_says_where_the_window_of_the_next_step_starts() -> None:
    first = Counting().planner.plan(0, 0).num_rows
    assert one(Counting(), first - 1).step(0).cursor == Cursor(0, 0)
    assert one(Counting(), first).step(0).cursor == Cursor(first, 1)


def test_windows_are_packed_once_and_two_are_kept() -> None:
    planner = Counting()
    schedule = one(planner)
    for index in range(schedule.num_steps(3)):
        schedule.step(index)
        assert len(schedule._plans) <= 2
    assert planner.planned == sorted(set(planner.planned)) and len(planner.planned) in (9, 10)
    assert max(map(planner.counted.count, planner.counted)) == 1


def test_the_rows_of_many_windows_are_extrapolated(monkeypatch: pytest.MonkeyPatch) -> None:
    planner = Counting(window=5)
    exact = one(planner)
    rows, steps = exact.rows_per_epoch(), [exact.num_steps(epochs) for epochs in (0.2, 1, 2.7)]
    assert rows[1]
    monkeypatch.setattr(schedule_module, "COUNTED_WINDOWS", 10)
    planner = Counting(window=5)
    about = one(planner)
    found, counted = about.rows_per_epoch()
    assert found == close(rows[0]) and not counted
    assert len(planner.counted) == 10
    assert [about.num_steps(epochs) for epochs in (0.2, 1, 2.7)] == [steps[0], *map(close, steps[1:])]


def close(number: int) -> Any:
    return pytest.approx(number, rel=0.05, abs=1)


@pytest.mark.parametrize(("micro", "world"), [(4, 1), (2, 2), (1, 4), (8, 1), (3, 4)])
def test_groups_are_consecutive_rows_and_lie_in_one_forward_pass(micro: int, world: int) -> None:
    every = schedules(12, micro, world, group_rows=4)
    where: dict[int, set[int]] = {}
    groups: list[int] = []
    for number, parts in enumerate(zip(*(schedule.step(0).micro_batches for schedule in every), strict=True)):
        for places in zip(*(part.rows for part in parts), strict=True):
            for row in places:
                if row is not None:
                    groups.append(row.group)
                    where.setdefault(row.group, set()).add(number)
    assert groups == [0] * 4 + [1] * 4 + [2] * 4
    assert all(len(passes) == 1 for passes in where.values())


def test_a_group_that_accumulation_would_cut_is_refused() -> None:
    with pytest.raises(DiptychError, match=r"objective\.group_rows: a group of 4 rows .* accumulation steps of 6 rows"):
        schedules(12, 3, 2, group_rows=4)
