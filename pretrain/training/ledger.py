"""Which rows every rank trained on, for an audit: ``RUN/ledger/attempt-A-rank-R.jsonl``.

An attempt is one start of the run, or one rollback. From its first step on, its rows replace those of earlier attempts,
because the weights of those steps are lost.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from pretrain.data.schedule import Step
from pretrain.runtime.distributed import Ranks

RowName = tuple[int, int, int]
"""Epoch, window and index of a row (:class:`pretrain.data.schedule.PackedRow`)."""


def open_ledger(folder: Path, first_step: int, ranks: Ranks) -> "Ledger":
    """The ledger of a new attempt. Collective.

    Args:
        folder: Where all attempts of the run are.
        first_step: Steps that are done.
        ranks: All ranks.
    """
    attempt = ranks.on_main(lambda: next_attempt(folder))
    return ranks.agree(lambda: Ledger(folder, attempt, ranks.rank, first_step))


def next_attempt(folder: Path) -> int:
    """Number of the next attempt, from 1."""
    return 1 + max((int(path.name.split("-")[1]) for path in folder.glob("attempt-*.jsonl")), default=0)


class Ledger:
    """Writes what one rank of one attempt trains on."""

    def __init__(self, folder: Path, attempt: int, rank: int, first_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"attempt-{attempt:04d}-rank-{rank:05d}.jsonl").open("x", encoding="utf-8", buffering=1)
        self._write({"first_step": first_step})

    def add(self, step: Step) -> None:
        """Records this rank's rows of a step that has changed the weights."""
        rows = [
            (row.epoch, row.window, row.index) for micro_batch in step.micro_batches for row in micro_batch.rows if row
        ]
        self._write({"step": step.index, "rows": rows})

    def _write(self, line: dict[str, object]) -> None:
        self._file.write(json.dumps(line) + "\n")


def read_ledger(folder: Path) -> dict[int, list[RowName]]:
    """The rows of all ranks that the current weights were trained on, sorted, by step.

    A row that was trained on twice in a step is listed twice.
    """
    attempts: dict[int, list[Path]] = {}
    for path in sorted(folder.glob("attempt-*.jsonl")):
        attempts.setdefault(int(re.findall(r"\d+", path.name)[0]), []).append(path)
    steps: dict[int, list[RowName]] = {}
    for _, paths in sorted(attempts.items()):
        ranks = [list(_lines(path)) for path in paths]
        first = min((int(lines[0]["first_step"]) for lines in ranks if lines), default=None)  # type: ignore[call-overload]
        if first is None:
            continue
        steps = {step: rows for step, rows in steps.items() if step < first}
        for lines in ranks:
            for line in lines[1:]:
                steps.setdefault(line["step"], []).extend(tuple(row) for row in line["rows"])  # type: ignore
    return {step: sorted(rows) for step, rows in sorted(steps.items())}


def _lines(path: Path) -> Iterator[dict[str, object]]:
    """Whole lines; a kill may have cut the last one."""
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            yield json.loads(text)
        except ValueError:
            return
