"""The tensors of a micro-batch: those that the readable form of the same layout gives, bit for bit."""

import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.batch import Batch, BatchBuilder, collate
from pretrain.data.branches import Branches, View
from pretrain.data.corpus import BLOCK, SCHEMA, CorpusSplit
from pretrain.data.mixture import resolve
from pretrain.data.order import Order
from pretrain.data.packing import WindowPlanner
from pretrain.data.prefetch import AHEAD, prefetch
from pretrain.data.schedule import Schedule
from pretrain.preparation.shards import ShardWriter
from pretrain.runtime.errors import DiptychError
from tests.pretrain.data.test_branches import framed, layouts, views
from tests.support import branch_reference
from tests.support.splits import MadeSplit
from tests.support.trees import lay_out_examples

PAD, ROW = 7, 48
examples = st.tuples(views, views, st.booleans())


def assert_same(batch: Batch, expected: Batch) -> None:
    for field in fields(Batch):
        value, other = getattr(batch, field.name), getattr(expected, field.name)
        if isinstance(other, torch.Tensor):
            assert value.dtype == other.dtype and value.shape == other.shape and torch.equal(value, other), field.name
        else:
            assert value == other and type(value) is type(other), field.name


@settings(max_examples=300, deadline=None)
@given(layouts | framed, st.lists(st.lists(examples, max_size=4), min_size=1, max_size=5), st.integers(0, 9))
def test_rows_are_those_laid_out_one_token_after_the_other(
    branches: Branches, rows: list[list[tuple[View, View, bool]]], padding: int
) -> None:
    laid_out = []
    for row in rows:
        tree, pairs = branch_reference.Tree(), []
        for example in row:
            alone, spans = branch_reference.lay_out(branches, *example)
            offset = tree.extend(alone)
            if spans is not None:
                pairs.append(spans.shifted(offset))
        laid_out.append((tree, pairs))
    groups = np.arange(len(rows)) // 2
    length = max(1, padding + max(len(tree.ids) for tree, _ in laid_out))
    each = [int(group) for group, (_, pairs) in zip(groups, laid_out, strict=True) for _ in pairs]
    expected = branch_reference.collate(laid_out, each, length, PAD)
    numbers = np.repeat(np.arange(len(rows)), [len(row) for row in rows])
    flat = [example for row in rows for example in row]
    assert_same(collate(lay_out_examples(branches, flat, numbers), groups, length, PAD), expected)


def schedule_of(branches: Branches, **changes: Any) -> tuple[MadeSplit, Schedule]:
    split = MadeSplit({"a": 60, "b": 20}, longest=9)
    order = Order(resolve((), split.sources, repeat=False), seed=1)
    planner = WindowPlanner(split, order, branches, ROW, branched=True, dropout=0.3)
    options = {"rows_per_step": 5, "micro_batch_rows": 2, "rank": 1, "world_size": 2} | changes
    return split, Schedule(planner, **options)


@settings(max_examples=30, deadline=None)
@given(layouts | framed, st.integers(0, 5))
def test_a_builder_reads_the_wordings_of_the_plan(branches: Branches, index: int) -> None:
    split, schedule = schedule_of(branches, group_rows=2)
    builder, parts = BatchBuilder(split, branches, ROW, PAD), schedule.step(index).micro_batches  # type: ignore[arg-type]
    for part, built in zip(parts, builder.build_all(parts), strict=True):
        expected = branch_reference.build(split, branches, ROW, PAD, part)
        assert_same(built, expected)
        assert_same(builder.build(part), expected)


def write_shard(path: Path, numbers: range) -> dict[str, Any]:
    """Records of two to four wordings, of which no two hold the same tokens."""
    with pa.ipc.new_file(str(path), SCHEMA) as writer:
        shard = ShardWriter(writer)
        for number in numbers:
            ids = [[10 * number + wording] * (1 + (number + wording) % 3) for wording in range(2 + number % 3)]
            complete = [(number + wording) % 4 > 0 for wording in range(len(ids))]
            each = {"file": [0], "line": [number], "label": [None], "group": [None], "first_wordings": [number % 2]}
            shard.block.add(ids, complete, [1] * len(ids), [len(ids)], **each)
            shard.flush()
        shard.flush(full=False)
    return {"file": path.name, "records": len(numbers)}


def test_tokens_are_read_from_all_shards_and_blocks_in_the_order_asked(tmp_path: Path) -> None:
    total = BLOCK + 150
    shards = [
        write_shard(tmp_path / "0.arrow", range(BLOCK + 100)),
        write_shard(tmp_path / "1.arrow", range(BLOCK + 100, total)),
    ]
    split = CorpusSplit(tmp_path, [{"name": "a", "where": "", "files": [""], "mean_tokens": 4.0, "shards": shards}])
    draw = np.random.default_rng(0)
    records = np.concatenate([draw.permutation(total)[:300], np.arange(BLOCK - 2, BLOCK + 2), [total - 1, 0, 0]])
    pairs = split.pairs(records, draw.integers(0, 2**63, len(records), dtype=np.uint64))
    read = split.read(records, pairs)
    for number, (record, wordings) in enumerate(zip(records.tolist(), pairs.wordings.tolist(), strict=True)):
        for which, view in enumerate(split.views(record, tuple(wordings))):
            start, length = read.starts[number, which], read.lengths[number, which]
            assert read.tokens[start : start + length].tolist() == view.tokens
            assert read.complete[number, which] == view.complete
    assert len(split.read(records[:0], pairs[:0]).tokens) == 0


# --------------------------------------------------------------------------------------------------------- prefetch


class Watched(BatchBuilder):
    """Counts what it builds, and fails at one of the steps."""

    def __init__(self, split: Any, branches: Branches, fails_at: int | None = None) -> None:
        super().__init__(split, branches, ROW, PAD)
        self.built = 0
        self.fails_at = fails_at
        self.threads: set[threading.Thread] = set()

    def build_all(self, micro_batches: Any) -> list[Batch]:
        self.threads.add(threading.current_thread())
        if self.built == self.fails_at:
            raise DiptychError("train.jsonl:3: damaged")
        self.built += 1
        return super().build_all(micro_batches)


BRANCHES = Branches("independent", eos=2, bos=1, predictors=(50,))


@pytest.fixture
def steps() -> Iterator[tuple[Watched, Schedule]]:
    split, schedule = schedule_of(BRANCHES, rows_per_step=4, world_size=1, rank=0, micro_batch_rows=4)
    builder = Watched(split, BRANCHES)
    yield builder, schedule
    assert not any(thread.is_alive() for thread in builder.threads)


def test_prefetched_steps_are_the_steps_in_order(steps: tuple[Watched, Schedule]) -> None:
    builder, schedule = steps
    found = list(prefetch(schedule, builder, 3, 9))
    assert [step.index for step, _ in found] == [*range(3, 9)]
    for step, batches in found:
        for part, batch in zip(step.micro_batches, batches, strict=True):
            assert_same(batch, branch_reference.build(builder.split, BRANCHES, ROW, PAD, part))
    assert threading.main_thread() not in builder.threads
    assert list(prefetch(schedule, builder, 5, 5)) == []


def test_so_many_steps_are_built_ahead_and_no_more(steps: tuple[Watched, Schedule]) -> None:
    builder, schedule = steps
    found = prefetch(schedule, builder, 0, 100)
    assert builder.built == 0
    for taken in range(1, 4):
        next(found)
        deadline = time.monotonic() + 10
        while builder.built < taken + AHEAD and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(0.05)
        assert builder.built == taken + AHEAD
    found.close()


def test_a_failure_arrives_at_its_step_and_ends_the_worker(steps: tuple[Watched, Schedule]) -> None:
    builder, schedule = steps
    builder.fails_at = 3
    found = prefetch(schedule, builder, 0, 100)
    assert [next(found)[0].index for _ in range(3)] == [0, 1, 2]
    with pytest.raises(DiptychError, match=r"^train\.jsonl:3: damaged$"):
        next(found)


def test_a_closed_generator_builds_nothing_more(steps: tuple[Watched, Schedule]) -> None:
    builder, schedule = steps
    found = prefetch(schedule, builder, 0, 100)
    next(found)
    found.close()
    built = builder.built
    assert built <= 1 + AHEAD
    time.sleep(0.05)
    assert builder.built == built
