"""The data order of a corpus of 10^9 records: time to the first step, to any other step, and memory.

    python benchmarks/scale.py [--records 1000000000] [--out benchmarks/results/scale.json]

The shard index is the real one, but no token is on disk: when a block is asked for, its lengths and numbers of wordings
are made by hash. So what is measured is everything between the manifest and a step's rows, without the disk. Every
figure is of a process of its own, one for rank 0 of 1 and one for a rank of 1024; both must give the same rows.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.config.data import MixtureStage
from pretrain.data import corpus
from pretrain.data.branches import Branches
from pretrain.data.corpus import BLOCK, CorpusSplit
from pretrain.data.mixture import resolve
from pretrain.data.order import WINDOW, Order, random_keys
from pretrain.data.packing import WindowPlanner
from pretrain.data.schedule import Cursor, PackedRow, Schedule

ROW_LENGTH, ROWS_PER_STEP, BLOCKS_PER_SHARD = 1024, 4096, 64
SHARES = {"captions": 0.55, "questions": 0.3, "regexes": 0.15}
BRANCHES = Branches("conditional", eos=2, bos=1, predictors=(3,))
MIXTURE = [
    MixtureStage(tokens=30 * 10**9, weights={"captions": 7, "questions": 3}),
    MixtureStage(tokens=12 * 10**9, weights={"captions": 1, "questions": 1, "regexes": 2}),
]


class MadeBlock(corpus._Block):
    """A block of records of two to five wordings of 8 to 39 tokens, without the tokens."""

    def __init__(self, number: int, records: int) -> None:
        keys = random_keys(number, "record", 0, records)
        counts = (keys % np.uint64(4)).astype(np.int32) + 2
        self.outer = np.concatenate([np.zeros(1, np.int32), np.cumsum(counts, dtype=np.int32)])
        lengths = (random_keys(number, "wording", 0, int(self.outer[-1])) % np.uint64(32)).astype(np.int32) + 8
        self.inner = np.concatenate([np.zeros(1, np.int32), np.cumsum(lengths, dtype=np.int32)])
        self.first_wordings = np.zeros(records, np.int16)  # one view of several wordings
        self.__dict__ |= {"complete": np.ones(len(lengths), np.bool_), "num_bytes": 4 * lengths}


class MadeSplit(CorpusSplit):
    """The real index over blocks that are made when they are asked for."""

    def __init__(self, records: int) -> None:
        entries = []
        for name, share in SHARES.items():
            left = round(records * share)
            shards: list[dict[str, Any]] = []
            while left:
                shards.append(
                    {"file": f"{name}/{len(shards):05d}.arrow", "records": min(left, BLOCK * BLOCKS_PER_SHARD)}
                )
                left -= shards[-1]["records"]
            entries.append({"name": name, "where": name, "files": [name], "shards": shards, "mean_tokens": 47.0})
        super().__init__(Path(), entries)
        self.num_shards = len(self._shards)

    def _block(self, shard: int, number: int) -> corpus._Block:
        key = (shard, number)
        if key not in self._blocks:
            inside = int(self._starts[shard + 1] - self._starts[shard]) - number * BLOCK
            self._blocks[key] = MadeBlock(shard * BLOCKS_PER_SHARD + number, min(BLOCK, inside))
            if len(self._blocks) > 256:
                self._blocks.popitem(last=False)
        return self._blocks[key]


class Peak:
    """The most anonymous memory (RssAnon) that this process had so far, looked at every 5 ms."""

    def __init__(self) -> None:
        self.bytes = 0
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            text = Path("/proc/self/status").read_text()
            self.bytes = max(self.bytes, int(text.split("RssAnon:")[1].split()[0]) * 1024)
            time.sleep(0.005)


def measure(records: int, rank: int, world_size: int, mixture: bool) -> dict[str, Any]:
    """All figures of one rank."""
    peak = Peak()
    time.sleep(0.05)
    before = peak.bytes
    result: dict[str, Any] = {"rank": rank, "of": world_size}

    def timed(name: str, action: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        value = action()
        result[name] = round(time.perf_counter() - started, 3)
        return value

    def build() -> tuple[MadeSplit, Order, WindowPlanner]:
        split = MadeSplit(records)
        stages = [stage.model_copy(update={"tokens": (stage.tokens or 0) * records // 10**9}) for stage in MIXTURE]
        order = Order(resolve(stages if mixture else (), split.sources, repeat=False), seed=0)
        return split, order, WindowPlanner(split, order, BRANCHES, ROW_LENGTH, branched=True, dropout=0.5)

    def schedule() -> Schedule:
        return Schedule(planner, rows_per_step=ROWS_PER_STEP, micro_batch_rows=4, rank=rank, world_size=world_size)

    split, order, planner = timed("seconds to build the index and the table of windows", build)
    first = schedule()
    timed("seconds to plan the first window", lambda: first.plan(0))
    steps = {"first step": timed("seconds from there to the first step", lambda: first.step(0))}
    timed("seconds for the next step", lambda: first.step(1))
    rows = timed("seconds to extrapolate the rows of an epoch", first.rows_per_epoch)[0]
    # A cursor of the middle of epoch 3, as a checkpoint holds it; where its window starts changes no row within it.
    window = 3 * order.num_windows + order.num_windows // 2
    cursor = Cursor(round(3.5 * rows / ROWS_PER_STEP) * ROWS_PER_STEP, window)

    def resume() -> Any:
        resumed = schedule()
        resumed.start_from(cursor)
        return resumed.step(cursor.row // ROWS_PER_STEP)

    steps["resumed step"] = timed("seconds to a step in the middle of epoch 3, by cursor", resume)
    result["MiB of anonymous memory, interpreter and imports included"] = round(peak.bytes / 2**20)
    result["MiB of them before the index was built"] = round(before / 2**20)
    result["rows"] = {name: digests(step) for name, step in steps.items()}
    if rank == 0:
        count, started = min(100, order.num_windows), time.perf_counter()
        for number in range(count):
            planner.count_rows(0, number * order.num_windows // count)
        taken = (time.perf_counter() - started) / count
        result["corpus"] = {
            "records": len(split),
            "records of an epoch": int(order.starts[-1]),
            "shards": split.num_shards,
            "blocks": sum(-(-span.count // BLOCK) for span in split.sources),
            "windows of an epoch": order.num_windows,
            "rows of an epoch, extrapolated": rows,
        }
        result["seconds to count all rows of an epoch, extrapolated from 100 windows"] = round(
            taken * order.num_windows, 1
        )
        plan = first.plan(1)
        result["share of positions used in a window"] = round(
            float(plan.num_tokens.sum() / plan.num_rows / ROW_LENGTH), 4
        )
        result |= {
            f"microseconds a record to {name}": round(best(action) / (order.starts[2] - order.starts[1]) * 1e6, 3)
            for name, action in (
                ("draw", lambda: order.window(0, 1)),
                ("count rows", lambda: planner.count_rows(0, 1)),
                ("plan", lambda: planner.plan(0, 1)),
            )
        }
    return result


def best(action: Callable[[], Any]) -> float:
    """Seconds of the fastest of five calls."""
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        action()
        taken.append(time.perf_counter() - started)
    return min(taken)


def digests(step: Any) -> list[str]:
    """One for each row of this rank, in order."""
    rows = [row for micro_batch in step.micro_batches for row in micro_batch.rows if row]
    return [hashlib.sha256(repr(_facts(row)).encode()).hexdigest()[:16] for row in rows]


def _facts(row: PackedRow) -> tuple[Any, ...]:
    arrays = (row.examples, row.pairs.wordings, row.branched)
    return (row.epoch, row.window, row.index, *(values.tolist() for values in arrays), row.group)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=10**9)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(**arguments.measure)))
        return
    result: dict[str, Any] = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__}",
        "row length": ROW_LENGTH,
        "rows of a step": ROWS_PER_STEP,
        "records of a window": WINDOW,
    }
    for name, mixture in (("every record once", False), ("mixture of two stages", True)):
        ranks = []
        for rank, world_size in ((0, 1), (777, 1024)):
            asked = {"records": arguments.records, "rank": rank, "world_size": world_size, "mixture": mixture}
            output = subprocess.run(
                [sys.executable, __file__, "--measure", json.dumps(asked)],
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            ranks.append(json.loads(output.stdout))
        one, many = (entry.pop("rows") for entry in ranks)
        same = all(one[step][777::1024] == many[step] and len(many[step]) == ROWS_PER_STEP // 1024 for step in one)
        result[name] = {"both ranks give the same rows": same, "ranks": ranks}
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
