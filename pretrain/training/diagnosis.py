"""What is told of a step whose numbers broke, and stopping a run because of it."""

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
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
        records: Places of the records in them.
    """

    rank: int
    values: dict[str, float]
    rows: list[tuple[int, int, int]]
    records: list[str]


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


def stop_bad_step(
    reason: str,
    reports: Sequence[RankReport],
    *,
    step: int,
    learning_rate: float,
    last_grad_norm: float,
    left_out: int,
    folder: Path,
    ranks: Ranks,
) -> NoReturn:
    """Writes ``diagnosis-step-N.json`` and raises on all ranks, before any weight was touched.

    Args:
        reason: What is wrong.
        reports: What the ranks computed.
        step: Number of the step, from 1.
        learning_rate: Of this step.
        last_grad_norm: Of the step before.
        left_out: Steps that were left out before.
        folder: The run folder.
        ranks: All ranks.

    Raises:
        DiptychError: Always.
    """
    path = folder / f"diagnosis-step-{step}.json"
    if ranks.is_main:
        content = {"step": step, "reason": reason, "learning_rate": learning_rate, "last_grad_norm": last_grad_norm}
        with suppress(OSError):  # what stops the run must be said, even if the disk is full, too
            path.write_text(json.dumps(content | {"ranks": reports}, indent=1) + "\n", encoding="utf-8")
    bad = [report for report in reports if not all(math.isfinite(value) for value in report["values"].values())]
    where = ""
    if bad:
        terms = ", ".join(f"{name} {value:.4g}" for name, value in bad[0]["values"].items())
        where = f" on {', '.join(f'rank {number}' for number in (report['rank'] for report in bad))} ({terms})"
    elif "not finite" in reason:
        where = " on every rank's gradients together"
    before = f" {left_out} bad steps were left out before (train.max_bad_steps)." if left_out else ""
    raise DiptychError(
        f"step {step}: {reason}{where}; learning rate {learning_rate:.3g}, gradient norm of the step before "
        f"{last_grad_norm:.3g}.{before} No weight was changed; rows and records are in {path}. Resume with "
        "train.on_bad_step=skip to leave the step out, or lower optimizer.lr or lengthen optimizer.warmup_steps in "
        "another run.folder (run.resume=CHECKPOINT)"
    )
