"""Stopping a run whose numbers broke, with what is needed to find out why."""

import json
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from pretrain.corpus import Corpus
from pretrain.distributed import Ranks
from pretrain.errors import DiptychError
from pretrain.schedule import MicroBatch


def stop_not_finite(
    what: str,
    *,
    step: int,
    local: dict[str, float],
    micro_batch: MicroBatch,
    learning_rate: float,
    last_grad_norm: float,
    corpus: Corpus,
    folder: Path,
    ranks: Ranks,
) -> NoReturn:
    """Writes ``diagnosis-step-N.json`` and raises on all ranks. Collective, before any weight was touched.

    Args:
        what: What is not finite.
        step: Number of the step, from 1.
        local: This rank's values.
        micro_batch: What this rank computed.
        learning_rate: Of this step.
        last_grad_norm: Of the step before.
        corpus: To name the records.
        folder: The run folder.
        ranks: All ranks.
    """
    records = [corpus.train.place(example) for row in micro_batch.rows if row for example in row.examples]
    rows = [(row.epoch, row.window, row.index) for row in micro_batch.rows if row]
    reports = ranks.gather({"rank": ranks.rank, "values": local, "rows": rows, "records": records})
    bad = [
        report for report in reports if any(value != value or abs(value) == float("inf") for value in _values(report))
    ]
    path = folder / f"diagnosis-step-{step}.json"
    if ranks.is_main:
        content = {"step": step, "learning_rate": learning_rate, "last_grad_norm": last_grad_norm, "ranks": reports}
        with suppress(OSError):  # what stops the run must be said, even if the disk is full, too
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    culprits = ", ".join(f"rank {report['rank']}" for report in bad) or "every rank's gradients together"
    terms = ", ".join(f"{name} {value:.4g}" for report in bad[:1] for name, value in report["values"].items())  # type: ignore[attr-defined]
    raise DiptychError(
        f"step {step}: {what} is not finite on {culprits}{f' ({terms})' if terms else ''}; learning rate "
        f"{learning_rate:.3g}, gradient norm of the step before {last_grad_norm:.3g}. No weight was changed; rows and "
        f"records are in {path}. Lower optimizer.lr or lengthen optimizer.warmup_steps, then resume"
    )


def _values(report: dict[str, object]) -> Sequence[float]:
    values = report["values"]
    assert isinstance(values, dict)
    return list(values.values())
