"""``python -m launch status [RUN_OR_FOLDER ...]``: the state of each run, from its files and Slurm's queue.

Folders are searched for runs; without one, ``runs``.

running    a process holds the run folder          queued     its job waits, and never ran
requeued   its job waits, to resume                starting   its job runs, training does not yet
finished   it is exported                          stopped    none of these: start it again to resume
failed     stopped, and a diagnosis or stack traces were left since its last checkpoint
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.slurm_queue import SUBMITTED, QueuedJob, queued_jobs
from pretrain.runtime.command_line import CommandLine
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import FROZEN, run_holder
from pretrain.runtime.yaml_file import read_mapping

_TAIL_BYTES = 200_000
"""Of metrics.jsonl: the last lines are enough."""
_DEPTH = 4
"""How far below a folder runs are looked for."""


@dataclass(frozen=True)
class Status:
    """The state of a run.

    Attributes:
        folder: The run folder.
        state: One word of those above.
        step: Steps done, None before the first line of metrics.
        steps: Steps in all, as far as it is known.
        loss: Last loss of training.
        seconds_left: Estimated from the last speed; None if it does not run.
        checkpoint: Step of the newest checkpoint.
        job: Slurm's number.
    """

    folder: Path
    state: str
    step: int | None
    steps: int | None
    loss: float | None
    seconds_left: float | None
    checkpoint: int | None
    job: str | None


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch status``."""
    parser = CommandLine("launch status", __doc__)
    parser.add_argument("folders", metavar="RUN_OR_FOLDER", nargs="*", default=[Path("runs")], type=Path)
    folders = parser.read(argv).folders
    for folder in folders:
        if not folder.is_dir():
            raise DiptychError(f"{folder}: no such folder; name run folders, or a folder that holds some")
    runs = [run for folder in folders for run in find_runs(folder)]
    if not runs:
        raise DiptychError(f"{', '.join(map(str, folders))}: no run here")
    jobs = queued_jobs()
    rows: list[tuple[str, ...]] = [("run", "state", "step", "loss", "left", "checkpoint", "job")]
    rows += [_row(run_status(run, jobs)) for run in runs]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip())
    return 0


def find_runs(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    """Run folders at or below a folder, those submitted but not started too."""
    if (folder / "run.json").is_file() or (folder / FROZEN / "config.yaml").is_file():
        yield folder
    elif depth:
        for child in sorted(folder.iterdir()):
            if child.is_dir() and not child.is_symlink() and not child.name.startswith("."):
                yield from find_runs(child, depth - 1)


def run_status(folder: Path, jobs: Sequence[QueuedJob]) -> Status:
    """Reads the state of a run.

    Args:
        folder: The run folder.
        jobs: What Slurm's queue holds.
    """
    lines = _last_lines(folder / "metrics.jsonl")
    trained: dict[str, Any] = next((line for line in reversed(lines) if "train/lm_loss" in line), {})
    step = max((int(line["step"]) for line in lines[-1:]), default=None)
    steps = _steps(folder, trained)
    checkpoints = sorted(folder.glob("checkpoints/step_*/manifest.json"))
    checkpoint = int(checkpoints[-1].parent.name.removeprefix("step_")) if checkpoints else None
    held, owner = run_holder(folder)
    job = _job_of(folder, owner, jobs)
    if held:
        state = "running"
    elif job and job.state == "PENDING":
        state = "queued" if not lines and not job.restarts else "requeued"
    elif job and job.active:
        state = "starting"
    elif (folder / "export" / "config.json").is_file():
        state = "finished"
    else:
        state = "failed" if _left_a_diagnosis(folder, checkpoints[-1:]) else "stopped"
    left = None
    if state == "running" and steps and trained and trained["speed/label_tokens_per_second"]:
        per_step = trained["train/label_tokens"] / trained["step"]
        left = (steps - trained["step"]) * per_step / trained["speed/label_tokens_per_second"]
    number = job.label if job and job.active else None
    return Status(folder, state, step, steps, trained.get("train/lm_loss"), left, checkpoint, number)


def _last_lines(path: Path) -> list[dict[str, Any]]:
    """The last whole lines of a metrics file; none if there is none."""
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            start = max(0, file.tell() - _TAIL_BYTES)
            file.seek(start)
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    lines = []
    for line in text.splitlines()[1 if start else 0 :]:
        try:
            lines.append(json.loads(line))
        except ValueError:  # being written
            continue
    return [line for line in lines if "step" in line]


def _steps(folder: Path, trained: Mapping[str, Any]) -> int | None:
    """How long the run is: as its config says, or as the epochs that its steps took so far promise."""
    for path in (folder / "config.yaml", folder / FROZEN / "config.yaml"):
        if path.is_file():
            train = read_mapping(path, "sections").get("train") or {}
            if train.get("steps"):
                return int(train["steps"])
            if trained.get("train/epoch"):
                epochs = float(train.get("epochs") or 1)
                return round(epochs * int(trained["step"]) / float(trained["train/epoch"]))
    return None


def _job_of(folder: Path, owner: Mapping[str, Any], jobs: Sequence[QueuedJob]) -> QueuedJob | None:
    """The job that was submitted for a run, or else the one that last held its folder."""
    here = str(folder.absolute())
    for parent in folder.absolute().parents:
        try:
            record = json.loads((parent / SUBMITTED / "jobs.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        for entry in record:
            if here in entry["folders"]:
                task = entry["folders"].index(here) if len(entry["folders"]) > 1 else None
                return next((job for job in jobs if (job.number, job.task) == (entry["job"], task)), None)
    return next((job for job in jobs if job.label == owner.get("job")), None)


def _left_a_diagnosis(folder: Path, checkpoint: Sequence[Path]) -> bool:
    since = checkpoint[0].stat().st_mtime if checkpoint else 0.0
    left = [*folder.glob("diagnosis-*.json"), *folder.glob("traces/*.txt")]
    return any(path.stat().st_mtime > since for path in left)


def _row(status: Status) -> tuple[str, ...]:
    of = f"/{status.steps}" if status.steps else ""
    return (
        str(status.folder),
        status.state,
        "-" if status.step is None else f"{status.step}{of}",
        "-" if status.loss is None else f"{status.loss:.3f}",
        "-" if status.seconds_left is None else _duration(status.seconds_left),
        "-" if status.checkpoint is None else str(status.checkpoint),
        status.job or "-",
    )


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    days, hours = minutes // 1440, minutes // 60 % 24
    return f"{days}d{hours:02d}h" if days else f"{hours}h{minutes % 60:02d}m"
