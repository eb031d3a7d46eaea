"""The report on a step whose loss or gradient broke, and the error that stops a run because of it."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypedDict

from pretrain.data.corpus import Corpus
from pretrain.data.schedule import MicroBatch
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError


class RankReport(TypedDict):
    """What one rank computed.

    Attributes:
        rank: Number of the rank.
        values: Its losses by name.
        rows: Epoch, window and index of its rows.
        records: File and line of the records in them.
    """

    rank: int
    values: dict[str, float]
    rows: list[tuple[int, int, int]]
    records: list[str]


@dataclass(frozen=True)
class BadStep:
    """A step whose loss or gradient broke. All ranks hold the same.

    Attributes:
        number: Number of the step, from 1.
        reason: What is wrong with it.
        loss: Of the step over all ranks.
        learning_rate: Of the step.
        last_grad_norm: Gradient norm of the last good step.
        reports: What each rank computed, in the order of ranks.
    """

    number: int
    reason: str
    loss: float
    learning_rate: float
    last_grad_norm: float
    reports: Sequence[RankReport]


def gather_reports(
    values: Mapping[str, float], micro_batches: Sequence[MicroBatch], corpus: Corpus, ranks: Ranks
) -> list[RankReport]:
    """Every rank's report, in the order of ranks. Collective.

    Args:
        values: This rank's losses by name.
        micro_batches: What this rank computed.
        corpus: To name the records.
        ranks: All ranks.
    """
    rows = [row for micro_batch in micro_batches for row in micro_batch.rows if row]
    return ranks.gather(
        {
            "rank": ranks.rank,
            "values": dict(values),
            "rows": [(row.epoch, row.window, row.index) for row in rows],
            "records": [corpus.train.place(example) for row in rows for example in row.examples.tolist()],
        }
    )


def stop_bad_step(bad: BadStep, left_out: int, folder: Path, ranks: Ranks) -> NoReturn:
    """Writes ``diagnosis-step-N.json`` to the run folder and raises on all ranks.

    Args:
        bad: The step; no weight has been changed by it.
        left_out: How many bad steps were left out before.
        folder: The run folder.
        ranks: All ranks.

    Raises:
        DiptychError: Always.
    """
    path = folder / f"diagnosis-step-{bad.number}.json"
    if ranks.is_main:
        content = {
            "step": bad.number,
            "reason": bad.reason,
            "learning_rate": bad.learning_rate,
            "last_grad_norm": bad.last_grad_norm,
            "ranks": bad.reports,
        }
        with suppress(OSError):  # a full disk must not hide the error below
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    broken = [report for report in bad.reports if not all(map(math.isfinite, report["values"].values()))]
    where = ""
    if broken:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in broken[0]["values"].items())
        where = f" on {', '.join(f'rank {number}' for number in (report['rank'] for report in broken))} ({terms})"
    elif "not finite" in bad.reason:
        where = " on every rank's gradients together"
    before = f" {left_out} bad steps were left out before (train.max_bad_steps)." if left_out else ""
    raise DiptychError(
        f"step {bad.number}: {bad.reason}{where}; learning rate {bad.learning_rate:.3g}, gradient norm of the step "
        f"before {bad.last_grad_norm:.3g}.{before} No weight was changed; rows and records are in {path}. Resume with "
        "train.on_bad_step=skip to leave the step out, or lower optimizer.lr or lengthen optimizer.warmup_steps in "
        "another run.folder (run.resume=CHECKPOINT)"
    )
