"""Row building: tokens a second of one core, against building rows one token after the other.

    python -m benchmarks.rows [--out benchmarks/results/rows.json]

Corpora of random tokens are written as preparation writes them. Every figure covers what a rank does for a step: its
rows are looked up in the plan, their tokens are read from the memory-mapped shards, and the tensors of every
micro-batch are made. Rates are occupied positions over processor time; medians of repetitions, in which both ways take
turns. The batches of both ways must be equal.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from pretrain.data.batch import Batch, BatchBuilder
from pretrain.data.branches import Branches
from pretrain.data.corpus import BLOCK, SCHEMA, CorpusSplit
from pretrain.data.mixture import resolve
from pretrain.data.order import Order
from pretrain.data.packing import WindowPlanner
from pretrain.data.schedule import MicroBatch, Schedule
from tests.support import branch_reference

ROW_LENGTH, ROWS_PER_STEP, MICRO_BATCH_ROWS, PAD, VOCABULARY = 8192, 8, 2, 0, 32_768
CORPORA = {"captions": (262_144, 27), "documents": (16_384, 500)}
"""Records, and tokens of a view on average: half as many to half as many again."""

Way = Callable[[Sequence[MicroBatch]], list[Batch]]


def write_corpus(folder: Path, records: int, mean: int) -> CorpusSplit:
    """A source of pairs in shards of one block each."""
    draw = np.random.default_rng(records)
    shards = []
    for number, first in enumerate(range(0, records, BLOCK)):
        count = min(BLOCK, records - first)
        outer = np.arange(0, 2 * count + 1, 2, dtype=np.int32)
        inner = np.concatenate([[0], draw.integers(mean // 2, mean + mean // 2 + 1, 2 * count).cumsum()])
        tokens = pa.array(draw.integers(10, VOCABULARY, inner[-1], dtype=np.int32))
        lists = {
            "tokens": pa.ListArray.from_arrays(inner.astype(np.int32), tokens),
            "complete": pa.array(draw.random(2 * count) < 0.9),
            "bytes": pa.array(4 * np.diff(inner).astype(np.int32)),
        }
        columns = [pa.ListArray.from_arrays(outer, values) for values in lists.values()]
        columns += [pa.array(np.ones(count), field.type, safe=False) for field in list(SCHEMA)[3:]]
        batch = pa.record_batch(
            [column.cast(field.type) for column, field in zip(columns, SCHEMA, strict=True)], SCHEMA
        )
        shards.append({"file": f"{number:05d}.arrow", "records": count})
        with pa.ipc.new_file(str(folder / shards[-1]["file"]), SCHEMA) as writer:
            writer.write_batch(batch)
    return CorpusSplit(
        folder, [{"name": "made", "where": "", "files": [""], "mean_tokens": 2.0 * mean, "shards": shards}]
    )


def compare(
    split: CorpusSplit, layout: Literal["conditional", "independent"], steps: int, few: int, repetitions: int
) -> Any:
    """Rates of both ways."""
    branches = Branches(layout, eos=2, bos=1, predictors=(3,))
    planner = WindowPlanner(
        split, Order(resolve((), split.sources, repeat=False), seed=0), branches, ROW_LENGTH, branched=True
    )
    schedule = Schedule(planner, rows_per_step=ROWS_PER_STEP, micro_batch_rows=MICRO_BATCH_ROWS, rank=0, world_size=1)
    builder = BatchBuilder(split, branches, ROW_LENGTH, PAD)

    def reference(micro_batches: Sequence[MicroBatch]) -> list[Batch]:
        return [branch_reference.build(split, branches, ROW_LENGTH, PAD, part) for part in micro_batches]

    def build(first: int, stop: int, way: Way) -> Iterator[Batch]:
        for index in range(first, stop):
            yield from way(schedule.step(index).micro_batches)

    def rate(first: int, stop: int, way: Way) -> float:
        started = time.process_time()
        tokens = sum(batch.num_tokens for batch in build(first, stop, way))
        return tokens / (time.process_time() - started)

    started = time.process_time()
    records = len(schedule.plan(0).examples)
    planned = time.process_time() - started
    for batch, expected in zip(build(0, few, builder.build_all), build(0, few, reference), strict=True):
        for field in dataclasses.fields(Batch):
            value, other = getattr(batch, field.name), getattr(expected, field.name)
            if not (torch.equal(value, other) if isinstance(other, torch.Tensor) else value == other):
                raise SystemExit(f"{field.name}: the two ways differ")
    rates: dict[str, list[float]] = {"arrays": [], "one token after the other": []}
    for number in range(repetitions):
        first = few + number * steps
        rates["arrays"].append(rate(first, first + steps, builder.build_all))
        rates["one token after the other"].append(rate(first, first + few, reference))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    return {
        "microseconds a record to plan the window": round(1e6 * planned / records, 2),
        "million tokens a second": {name: round(found / 1e6, 2) for name, found in medians.items()},
        "all repetitions": {name: [round(one / 1e6, 2) for one in found] for name, found in rates.items()},
        "ratio": round(medians["arrays"] / medians["one token after the other"], 1),
    }


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=40, help="steps of a repetition")
    parser.add_argument("--few", type=int, default=2, help="the same of the slow way")
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": {"cores": os.cpu_count(), "processor": platform.machine(), "shared with other work": True},
        "versions": {"python": platform.python_version(), "numpy": np.__version__, "torch": torch.__version__},
        "row length": ROW_LENGTH,
        "rows of a step": ROWS_PER_STEP,
        "rows of a micro-batch": MICRO_BATCH_ROWS,
    }
    for name, (records, mean) in CORPORA.items():
        with tempfile.TemporaryDirectory() as folder:
            split = write_corpus(Path(folder), records, mean)
            for layout in ("independent", "conditional"):
                found = compare(split, layout, arguments.steps, arguments.few, arguments.repetitions)
                result[f"{name}, pairs of {2 * mean} tokens, {layout}"] = found
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
