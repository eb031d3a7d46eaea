"""The packing plan of a window: every example once and whole, in rows filled as best-fit decreasing fills them."""

import hashlib
import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.model import TokenizerConfig
from pretrain.data.branches import Branches
from pretrain.data.corpus import Pairs
from pretrain.data.mixture import Mix, resolve
from pretrain.data.order import Order, random_keys
from pretrain.data.packing import PackingPlan, WindowPlanner, count_rows, pack
from pretrain.preparation.tokenizer_training import train
from pretrain.runtime.errors import DiptychError
from tests.support.splits import MadeSplit

INDEPENDENT = Branches("independent", eos=2, bos=1, predictors=(9,))
CONDITIONAL = Branches("conditional", eos=2, bos=1, predictors=(9, 10))
ROW = 40  # two views of 12 fit with branches in either layout

layouts = st.sampled_from([INDEPENDENT, CONDITIONAL])
splits = st.builds(
    lambda counts, seed: MadeSplit({f"s{number}": count for number, count in enumerate(counts)}, seed=seed),
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.integers(0, 9),
)


def planner(
    split: MadeSplit, branches: Branches = INDEPENDENT, *, mix: Mix | None = None, seed: int = 0, **changes: Any
) -> WindowPlanner:
    sizes = {name: changes.pop(name) for name in ("block", "window") if name in changes}
    order = Order(mix or resolve((), split.sources, False), seed, **sizes)
    options = {"row_length": ROW, "branched": True} | changes
    return WindowPlanner(split, order, branches, **options)


def rows_of(plan: PackingPlan) -> list[list[int]]:
    return [plan.row(index)[0].tolist() for index in range(plan.num_rows)]


def plain_best_fit(sizes: list[int], row_length: int) -> list[int]:
    """Free positions of the rows, one example after the other."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        fitting = [space for space in free if space >= size]
        if fitting:
            free.remove(min(fitting))
        free.append((min(fitting) if fitting else row_length) - size)
    return free


# --------------------------------------------------------------------------------------------------------- best fit


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 30), max_size=80), st.integers(30, 64))
def test_rows_are_filled_as_by_placing_one_example_after_the_other(sizes: list[int], row_length: int) -> None:
    """In bulk, that is; both the plan and the count alone."""
    plain = Branches("conditional", eos=2)
    lengths = np.array([[1, size] for size in sizes], dtype=np.int64).reshape(-1, 2)
    pairs = Pairs(np.zeros_like(lengths), lengths, np.ones_like(lengths, dtype=bool), lengths, lengths)
    plan = pack(np.arange(len(sizes)), pairs, np.zeros(len(sizes), bool), plain, row_length + 1)
    free = plain_best_fit([size + 1 for size in sizes], row_length + 1)
    assert sorted((row_length + 1 - plan.num_tokens).tolist()) == sorted(free)
    assert count_rows(np.bincount([size + 1 for size in sizes]), row_length + 1) == len(free) == plan.num_rows


# ------------------------------------------------------------------------------------------------------------- plan


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(
    splits, layouts, st.integers(1, 3), st.sampled_from([0.0, 0.4]), st.booleans(), st.booleans(), st.integers(5, 90)
)
def test_every_example_is_packed_once_and_whole(
    split: MadeSplit,
    branches: Branches,
    repeats: int,
    dropout: float,
    branched: bool,
    reserve: bool,
    window: int,
) -> None:
    mix = Mix(split.sources, tuple(tuple(span.count for span in split.sources) for _ in range(repeats)))
    made = planner(
        split, branches, mix=mix, window=window, block=7, dropout=dropout, branched=branched, reserve_branches=reserve
    )
    packed: list[int] = []
    for number in range(len(made.starts) - 1):
        plan = made.plan(2, number)
        assert made.count_rows(2, number) == plan.num_rows
        drawn = made.order.window(2, number)
        expected = split.pairs(drawn.records, drawn.keys).wordings
        asked = sorted(zip(drawn.records.tolist(), expected.tolist(), strict=True))
        assert sorted(zip(plan.examples.tolist(), plan.pairs.wordings.tolist(), strict=True)) == asked
        packed += plan.examples.tolist()
        assert sum(len(row) for row in rows_of(plan)) == len(plan.examples)
        for index in range(plan.num_rows):
            examples, pairs, with_branches = plan.row(index)
            lengths = np.take_along_axis(split.lengths[examples], pairs.wordings, axis=1)
            complete = np.take_along_axis(split.complete[examples], pairs.wordings, axis=1)
            assert np.array_equal(pairs.lengths, lengths) and np.array_equal(pairs.complete, complete)
            used = branches.num_tokens(lengths, with_branches)
            assert len(examples) > 0 and used.sum() == plan.num_tokens[index] <= ROW
            assert branches.num_labels(lengths, complete).sum() == plan.num_labels[index]
            assert with_branches.sum() == plan.num_branched[index]
        assert branched or not plan.branched.any()
        assert dropout or plan.branched.all() == branched
    assert sorted(packed) == sorted([*range(len(split))] * repeats)


def test_plan_depends_on_nothing_but_its_arguments() -> None:
    split = MadeSplit({"a": 400, "b": 100})
    first = planner(split, seed=3, dropout=0.2).plan(2, 0)
    busy = planner(split, seed=3, dropout=0.2)
    np.random.seed(2)
    busy.plan(0, 0)
    again = busy.plan(2, 0)
    for name in ("offsets", "examples", "branched", "num_tokens", "num_labels", "num_branched"):
        assert np.array_equal(getattr(first, name), getattr(again, name)), name
    for name in ("wordings", "lengths", "complete", "num_bytes", "starts"):
        assert np.array_equal(getattr(first.pairs, name), getattr(again.pairs, name)), name


def test_plan_never_changes() -> None:
    """Every resumed run depends on it; the sizes are made without numpy's generators."""
    split = MadeSplit({"a": 90, "b": 30})
    split.num_wordings[:] = 3
    split.lengths = (random_keys(0, "lengths", 0, 480) % np.uint64(12)).astype(np.int64).reshape(120, 4) + 1
    split.complete[:] = True
    made = planner(split, CONDITIONAL, seed=5, block=16, window=50, dropout=0.3)
    digest = hashlib.sha256()
    for epoch, window in itertools.product(range(2), range(3)):
        plan = made.plan(epoch, window)
        order = (plan.offsets, plan.examples, plan.pairs.wordings, plan.branched)
        for part in (*order, plan.num_tokens, plan.num_labels):
            digest.update(part.astype("<i8").tobytes())
    assert rows_of(made.plan(0, 0))[:3] == [[87, 88, 45], [91], [80, 16]]
    assert digest.hexdigest() == "c227eb0f55cdfabbb578ba4e0e50440d2d0934b9f1a3a9bdbaccd5039a0907a0"


def test_epoch_and_seed_change_rows_and_wordings() -> None:
    split = MadeSplit({"a": 500})
    plans = [planner(split, seed=seed).plan(epoch, 0) for seed, epoch in [(0, 0), (0, 1), (1, 0), (1, 1)]]
    for one, other in itertools.combinations(plans, 2):
        rows = [{tuple(row) for row in rows_of(plan)} for plan in (one, other)]
        assert len(rows[0] & rows[1]) < len(rows[0]) / 4
        drawn = [plan.pairs.wordings[np.argsort(plan.examples)] for plan in (one, other)]
        assert 0.1 < (drawn[0] == drawn[1]).all(axis=1).mean() < 0.5


def test_rows_are_shuffled_and_not_sorted_by_length() -> None:
    split = MadeSplit({"a": 2000})
    made = planner(split)
    plan = made.plan(0, 0)
    lengths = np.take_along_axis(split.lengths[plan.examples], plan.pairs.wordings, axis=1)
    longest = np.maximum.reduceat(INDEPENDENT.num_tokens(lengths, branched=True), plan.offsets[:-1])
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.2
    drawn = np.empty(2000, dtype=int)
    drawn[made.order.window(0, 0).records[made.order.shuffle(0, 0, 2000)]] = np.arange(2000)
    assert all(np.all(np.diff(drawn[row]) > 0) for row in rows_of(plan))


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_dropout_takes_its_share_by_example_and_epoch(share: float) -> None:
    split = MadeSplit({"a": 10_000})
    kept = []
    for epoch in (0, 1):
        plan = planner(split, dropout=share).plan(epoch, 0)
        kept.append(set(plan.examples[plan.branched].tolist()))
        assert abs(1 - plan.branched.mean() - share) < 4 * math.sqrt(share * (1 - share) / 10_000)
    both = len(kept[0] & kept[1]) / 10_000
    assert both == pytest.approx((1 - share) ** 2, abs=0.03)  # drawn anew in each epoch
    wider = planner(split, row_length=100, dropout=share).plan(0, 0)
    assert set(wider.examples[wider.branched].tolist()) == kept[0]  # whatever the rows


@pytest.mark.parametrize("branches", [INDEPENDENT, CONDITIONAL])
def test_reserved_branches_give_both_arms_of_a_comparison_the_same_rows(branches: Branches) -> None:
    split = MadeSplit({"a": 300})
    treated = planner(split, branches).plan(1, 0)
    for changes in ({"branched": False}, {"dropout": 0.5}):
        other = planner(split, branches, reserve_branches=True, **changes).plan(1, 0)
        assert rows_of(other) == rows_of(treated)
        assert np.array_equal(other.num_labels, treated.num_labels)
        assert np.array_equal(other.pairs.wordings, treated.pairs.wordings)
        assert other.num_tokens.sum() < treated.num_tokens.sum()
    assert rows_of(planner(split, branches, branched=False).plan(1, 0)) != rows_of(treated)


def test_an_example_longer_than_a_row_is_refused_by_its_place() -> None:
    split = MadeSplit({"a": 5})
    split.lengths[:] = 1
    split.lengths[3] = 19
    message = "^record:3: the record takes 41 positions, a row has 40; raise packing.row_length"
    for call in (planner(split).plan, planner(split).count_rows):
        with pytest.raises(DiptychError, match=message):
            call(0, 0)
    assert planner(split, branched=False).plan(0, 0).num_rows == 2  # 40 without its branches


def test_no_examples_fill_no_rows() -> None:
    none = np.zeros((0, 2), dtype=np.int64)
    plan = pack(none[:, 0], Pairs(none, none, none.astype(bool), none, none), np.zeros(0, bool), INDEPENDENT, ROW)
    assert plan.num_rows == 0 and len(plan.examples) == 0


@pytest.mark.parametrize(
    ("name", "layout"),
    [("multi30k_captions", "independent"), ("quora", "independent"), ("nlrx_synth", "conditional")],
)
def test_real_corpora_use_994_of_1000_positions(shared: Path, name: str, layout: Any) -> None:
    with (shared / "data" / name / "train.jsonl").open(encoding="utf-8") as file:
        pairs = [(record["text"], record["code"]) for record in map(json.loads, itertools.islice(file, 20_000))]
    tokenizer = train([view for pair in pairs[:2000] for view in pair], TokenizerConfig(vocab_size=512))
    views = [tokenizer.encode_batch([pair[which] for pair in pairs]) for which in (0, 1)]
    lengths = np.array([[len(first), len(second)] for first, second in zip(*views, strict=True)])
    found = Pairs(np.zeros_like(lengths), lengths, np.ones_like(lengths, dtype=bool), lengths, lengths)
    branches = Branches(layout, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors[:1])
    for branched in (True, False):
        plan = pack(np.arange(len(pairs)), found, np.full(len(pairs), branched), branches, 1024)
        used = plan.num_tokens.sum() / (plan.num_rows * 1024)
        assert used >= 0.994, f"{name}, {layout}, branched {branched}: {used:.2%} of {plan.num_rows} rows"
