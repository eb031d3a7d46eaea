"""The packing plan and the schedule: every example once an epoch, the same rows in every step on any machine."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain import packing
from pretrain.branches import Branches
from pretrain.errors import DiptychError
from pretrain.packing import PackingPlan, plan_epoch, random_keys
from pretrain.schedule import MicroBatch, Row, Schedule
from pretrain.sources import JsonlSource
from pretrain.tokenizer import TokenizerConfig
from pretrain.tokenizer_training import train

INDEPENDENT = Branches("independent", eos=2, bos=1, predictors=(9,))
CONDITIONAL = Branches("conditional", eos=2, bos=1, predictors=(9, 10))
ROW = 40  # two views of 12 fit with branches in either layout

corpora = st.lists(
    st.tuples(st.integers(1, 12), st.integers(1, 12), st.booleans(), st.booleans()), min_size=1, max_size=60
)
layouts = st.sampled_from([INDEPENDENT, CONDITIONAL])


def arrays(corpus: list[tuple[int, int, bool, bool]]) -> tuple[Any, Any]:
    return np.array([row[:2] for row in corpus], dtype=np.int64), np.array([row[2:] for row in corpus], dtype=bool)


def random_corpus(count: int, longest: int = 12) -> tuple[Any, Any]:
    draw = np.random.default_rng(count)
    return draw.integers(1, longest + 1, (count, 2)), draw.random((count, 2)) < 0.8


def make_plan(corpus: tuple[Any, Any], branches: Branches = INDEPENDENT, **changes: Any) -> PackingPlan:
    settings_ = {"row_length": ROW, "seed": 0, "epoch": 0, "branched": True} | changes
    return plan_epoch(*corpus, branches, **settings_)


def rows_of(plan: PackingPlan) -> list[list[int]]:
    return [plan.row(index)[0].tolist() for index in range(plan.num_rows)]


def splitmix64(seed: int, purpose: str, epoch: int, count: int) -> list[int]:
    """An independent SplitMix64 in Python's own integers."""
    limit = 2**64

    def mix(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % limit
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % limit
        return value ^ (value >> 31)

    gamma, state = 0x9E3779B97F4A7C15, seed
    for part in [*purpose.encode(), epoch]:
        state = mix((state + gamma) % limit) ^ part
    start = mix(state)
    return [mix((start + number * gamma) % limit) for number in range(1, count + 1)]


# ------------------------------------------------------------------------------------------------------ random keys


@pytest.mark.parametrize(
    ("seed", "purpose", "epoch", "keys"),
    # The data order of every run follows from these: they must never change.
    [
        (0, "order", 0, [0x737260ED15845235, 0xEE6AF663726D48D5, 0x1112134C295ED6F5, 0x4F7F3CC52CCDB83F]),
        (7, "dropout", 3, [0x679D6F77EDB4BE91, 0xCA98019450B9408A, 0x2F77981CE13151F5]),
        (2**63, "rows of window 1", 1, [0x10F375FB074B21A7, 0xAB3AAF2D826C61F0]),
    ],
)
def test_random_keys_never_change(seed: int, purpose: str, epoch: int, keys: list[int]) -> None:
    assert random_keys(seed, purpose, epoch, len(keys)).tolist() == keys
    assert splitmix64(seed, purpose, epoch, len(keys)) == keys


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.text(max_size=10), st.integers(0, 1000), st.integers(0, 20))
def test_random_keys_are_splitmix64(seed: int, purpose: str, epoch: int, count: int) -> None:
    assert random_keys(seed, purpose, epoch, count).tolist() == splitmix64(seed, purpose, epoch, count)


def test_plan_of_a_small_corpus_never_changes() -> None:
    lengths = [[3, 4], [1, 1], [2, 6], [5, 5], [1, 2], [7, 2], [2, 2], [4, 1], [3, 3], [6, 1]]
    corpus = (np.array(lengths), np.ones((10, 2), dtype=bool))
    first, second = (make_plan(corpus, row_length=24, seed=5, epoch=epoch, dropout=0.3) for epoch in (0, 1))
    assert rows_of(first) == [[4, 6, 7], [3, 2], [0, 5], [9, 1, 8]]
    assert first.branched.all() and first.num_tokens.tolist() == [21, 24, 22, 24]
    assert rows_of(second) == [[8, 2], [9, 0, 1], [7, 4, 6], [3, 5]]
    assert second.branched.tolist() == [True, False, True, True, False, True, True, True, False, False]
    assert second.num_tokens.tolist() == [19, 24, 21, 23] and second.num_labels.tolist() == [18, 22, 18, 23]


# ------------------------------------------------------------------------------------------------------------- plan


@settings(max_examples=150, deadline=None)
@given(corpora, layouts, st.integers(0, 3), st.sampled_from([0.0, 0.4]), st.booleans(), st.booleans())
def test_every_example_is_packed_once_and_whole(
    corpus: list[tuple[int, int, bool, bool]],
    branches: Branches,
    epoch: int,
    dropout: float,
    branched: bool,
    reserve: bool,
) -> None:
    lengths, complete = arrays(corpus)
    plan = make_plan(
        (lengths, complete), branches, epoch=epoch, dropout=dropout, branched=branched, reserve_branches=reserve
    )
    assert sorted(plan.examples.tolist()) == list(range(len(corpus)))
    assert sum(len(row) for row in rows_of(plan)) == len(corpus)
    for index in range(plan.num_rows):
        examples, with_branches = plan.row(index)
        assert len(examples) == len(with_branches) > 0
        used = sum(
            int(branches.num_tokens(lengths[example], bool(kept)))
            for example, kept in zip(examples, with_branches, strict=True)
        )
        assert used == plan.num_tokens[index] <= ROW
        labels = sum(int(branches.num_labels(lengths[example], complete[example])) for example in examples)
        assert labels == plan.num_labels[index]
    assert branched or not plan.branched.any()
    assert dropout or plan.branched.all() == branched


@settings(max_examples=60, deadline=None)
@given(corpora, layouts)
def test_no_row_is_filled_worse_than_by_a_plain_best_fit(
    corpus: list[tuple[int, int, bool, bool]], branches: Branches
) -> None:
    lengths, complete = arrays(corpus)
    free: list[int] = []
    for size in sorted(branches.num_tokens(lengths, branched=True).tolist(), reverse=True):
        fitting = [space for space in free if space >= size]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else ROW) - size)
    plan = make_plan((lengths, complete), branches)
    assert sorted((ROW - plan.num_tokens).tolist()) == sorted(free)


def test_plan_depends_on_nothing_but_its_arguments() -> None:
    corpus = random_corpus(500)
    np.random.seed(1)
    first = make_plan(corpus, seed=3, epoch=2, dropout=0.2)
    np.random.seed(2)
    make_plan(corpus, seed=4)
    again = make_plan((corpus[0].copy(), corpus[1].copy()), seed=3, epoch=2, dropout=0.2)
    for name in ("offsets", "examples", "branched", "num_tokens", "num_labels"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name


def test_epoch_and_seed_change_the_order() -> None:
    corpus = random_corpus(500)
    plans = [rows_of(make_plan(corpus, seed=seed, epoch=epoch)) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for one, other in itertools.combinations(plans, 2):
        assert len({tuple(row) for row in one} & {tuple(row) for row in other}) < len(one) / 4


def test_rows_are_shuffled_and_not_sorted_by_length() -> None:
    lengths, complete = random_corpus(2000)
    plan = make_plan((lengths, complete))
    sizes = INDEPENDENT.num_tokens(lengths, branched=True)
    longest = np.array([sizes[row].max() for row in rows_of(plan)])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    order = np.argsort(random_keys(0, "order", 0, 2000), kind="stable")
    drawn = np.empty(2000, dtype=int)
    drawn[order] = np.arange(2000)
    assert all(np.all(np.diff(drawn[row]) > 0) for row in rows_of(plan))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_takes_its_share_by_example_and_epoch(share: float) -> None:
    corpus = random_corpus(10_000)
    kept = []
    for epoch in (0, 1):
        plan = make_plan(corpus, epoch=epoch, dropout=share)
        kept.append(set(plan.examples[plan.branched].tolist()))
        assert abs(1 - plan.branched.mean() - share) < 4 * math.sqrt(share * (1 - share) / 10_000)
    both = len(kept[0] & kept[1]) / 10_000
    assert both == pytest.approx((1 - share) ** 2, abs=0.03)  # drawn anew in each epoch
    wider = make_plan(corpus, row_length=100, dropout=share)
    assert set(wider.examples[wider.branched].tolist()) == kept[0]  # whatever the rows


def test_a_window_is_packed_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = random_corpus(70)
    monkeypatch.setattr(packing, "WINDOW", 30)
    plan = make_plan(corpus, seed=8)
    order = np.argsort(random_keys(8, "order", 0, 70), kind="stable").tolist()
    rows = rows_of(plan)
    for start in (0, 30, 60):
        window, filled = set(order[start : start + 30]), set()
        while filled < window:
            row = set(rows.pop(0))
            assert row <= window
            filled |= row
    assert not rows


@pytest.mark.parametrize("count", [packing.WINDOW, packing.WINDOW + 1])
def test_a_corpus_at_the_edge_of_a_window_loses_nothing(count: int) -> None:
    plan = make_plan(random_corpus(count), row_length=512)
    assert np.array_equal(np.sort(plan.examples), np.arange(count))
    assert np.all(np.diff(plan.offsets) > 0)
    assert (plan.num_tokens < 256).sum() <= math.ceil(count / packing.WINDOW)


@pytest.mark.parametrize("branches", [INDEPENDENT, CONDITIONAL])
def test_reserved_branches_give_both_arms_of_a_comparison_the_same_rows(branches: Branches) -> None:
    corpus = random_corpus(300)
    treated = make_plan(corpus, branches, epoch=1)
    for changes in ({"branched": False}, {"dropout": 0.5}):
        other = make_plan(corpus, branches, epoch=1, reserve_branches=True, **changes)
        assert rows_of(other) == rows_of(treated)
        assert np.array_equal(other.num_labels, treated.num_labels)
        assert other.num_tokens.sum() < treated.num_tokens.sum()
    assert rows_of(make_plan(corpus, branches, epoch=1, branched=False)) != rows_of(treated)


def test_an_example_longer_than_a_row_is_refused_by_number() -> None:
    corpus = (np.array([[5, 5], [20, 18]]), np.ones((2, 2), dtype=bool))
    with pytest.raises(ValueError, match="example 1 takes 41 positions, a row has 40"):
        make_plan(corpus)
    assert make_plan(corpus, branched=False).num_rows == 2  # 40 without its branches


def test_an_empty_corpus_has_no_rows() -> None:
    plan = make_plan((np.zeros((0, 2), dtype=np.int64), np.zeros((0, 2), dtype=bool)))
    assert plan.num_rows == 0 and len(plan.examples) == 0


@pytest.mark.parametrize("name", ["multi30k_captions", "quora", "nlrx_synth"])
def test_real_corpora_use_97_percent_of_positions(shared: Path, name: str) -> None:
    source = JsonlSource(type="jsonl", path=shared / "data" / name / "train.jsonl")
    pairs = [(record.views["text"], record.views["code"]) for record in itertools.islice(source.records(), 6000)]
    tokenizer = train([view for pair in pairs[:2000] for view in pair], TokenizerConfig(vocab_size=512))
    views = [tokenizer.encode_batch([pair[which] for pair in pairs]) for which in (0, 1)]
    lengths = np.array([[len(first), len(second)] for first, second in zip(*views, strict=True)])
    complete = np.ones_like(lengths, dtype=bool)
    for layout in ("conditional", "independent"):
        branches = Branches(layout, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors[:1])  # type: ignore[arg-type]
        for branched in (True, False):
            plan = make_plan((lengths, complete), branches, row_length=1024, branched=branched)
            used = plan.num_tokens.sum() / (plan.num_rows * 1024)
            assert used >= 0.97, f"{name}, {layout}, branched {branched}: {used:.1%} of {plan.num_rows} rows"


# --------------------------------------------------------------------------------------------------------- schedule


class Planner:
    """Plans of a corpus of 90 examples, with a count of how often one was made."""

    def __init__(self, dropout: float = 0.3) -> None:
        self.corpus = random_corpus(90)
        self.dropout = dropout
        self.made = 0

    def __call__(self, epoch: int) -> PackingPlan:
        self.made += 1
        return make_plan(self.corpus, seed=1, epoch=epoch, dropout=self.dropout)


def schedules(rows: int, micro: int, world: int, **changes: Any) -> list[Schedule]:
    planner = Planner()
    return [
        Schedule(planner, rows_per_step=rows, micro_batch_rows=micro, rank=rank, world_size=world, **changes)
        for rank in range(world)
    ]


def stream(count: int) -> list[tuple[int, int]]:
    """The first rows of all epochs, as (epoch, row)."""
    planner = Planner()
    numbered = ((epoch, row) for epoch in itertools.count() for row in range(planner(epoch).num_rows))
    return list(itertools.islice(numbered, count))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_a_step_takes_the_next_rows_on_any_number_of_ranks(rows: int, micro: int, world: int) -> None:
    planner, every = Planner(), schedules(rows, micro, world)
    for index in (0, 1, 6):
        expected = stream(rows * (index + 1))[-rows:]
        steps = [schedule.step(index) for schedule in every]
        by_rank = [[row for micro in step.micro_batches for row in micro.rows] for step in steps]
        assert len({len(places) for places in by_rank}) == 1
        for place, (epoch, number) in enumerate(expected):
            row = by_rank[place % world][place // world]
            examples, branched = planner(epoch).row(number)
            assert row == Row(epoch, number, tuple(examples.tolist()), tuple(branched.tolist()), place)
        assert sum(row is not None for places in by_rank for row in places) == rows  # the others are empty
        labels = sum(int(planner(epoch).num_labels[number]) for epoch, number in expected)
        pairs = sum(len(planner(epoch).row(number)[0]) for epoch, number in expected)
        assert {(step.index, step.num_labels, step.num_pairs) for step in steps} == {(index, labels, pairs)}


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 9), st.integers(1, 5), st.integers(1, 5))
def test_capacities_are_the_most_that_any_rank_has(rows: int, micro: int, world: int) -> None:
    planner, every = Planner(), schedules(rows, micro, world)

    def labels(part: MicroBatch) -> int:
        return sum(int(planner(row.epoch).num_labels[row.index]) for row in part.rows if row)

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
    planner = Planner()
    sizes = [planner(epoch).num_rows for epoch in range(4)]
    schedule = schedules(7, 2, 2)[0]
    assert schedule.num_steps(1) == math.ceil(sizes[0] / 7)
    assert schedule.num_steps(2.5) == math.ceil((sizes[0] + sizes[1] + math.ceil(sizes[2] / 2)) / 7)
    assert schedule.num_steps(1e-9) == 1
    assert schedule.epoch_of(0) == 0
    row = 7 * schedule.num_steps(1) - sizes[0]
    assert schedule.epoch_of(schedule.num_steps(1)) == pytest.approx(1 + row / sizes[1])


def test_a_resumed_schedule_starts_anywhere_without_the_steps_before() -> None:
    straight, resumed = schedules(5, 2, 2)[1], schedules(5, 2, 2)[1]
    steps = [straight.step(index) for index in range(30)]
    assert [resumed.step(index) for index in (29, 13, 0)] == [steps[29], steps[13], steps[0]]


def test_plans_of_at_most_two_epochs_are_kept() -> None:
    planner = Planner()
    schedule = Schedule(planner, rows_per_step=4, micro_batch_rows=4, rank=0, world_size=1)
    last = schedule.num_steps(3)
    planner.made = 0
    for index in range(last):
        schedule.step(index)
    assert planner.made <= 4
    assert len(schedule._plans) <= 2


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
