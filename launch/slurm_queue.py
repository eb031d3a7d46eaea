"""Jobs in Slurm's queue."""

import shutil
import subprocess
from dataclasses import dataclass

SUBMITTED = "submitted"
"""Folder of scripts, output and ``jobs.json`` of a pipeline, in its folder."""


@dataclass(frozen=True)
class QueuedJob:
    """A job or one task of an array.

    Attributes:
        number: Of the job, or of the whole array.
        task: Number in the array; None: it is none.
        state: Slurm's word, such as PENDING.
        reason: Why it waits.
        restarts: How often it was requeued.
    """

    number: str
    task: int | None
    state: str
    reason: str
    restarts: int

    @property
    def active(self) -> bool:
        """Whether it runs or will run."""
        return self.state in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED", "SIGNALING")

    @property
    def label(self) -> str:
        """Its name in Slurm's commands."""
        return self.number if self.task is None else f"{self.number}_{self.task}"


def queued_jobs() -> list[QueuedJob]:
    """Jobs that Slurm knows, also those that ended some minutes ago; none without Slurm."""
    if shutil.which("squeue") is None:
        return []
    command = [
        "squeue",
        "--array",
        "--noheader",
        "--states=all",
        "--Format=ArrayJobID:|,ArrayTaskID:|,State:|,Reason:|,RestartCnt:|",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        return []
    jobs = []
    for line in done.stdout.splitlines() if done.returncode == 0 else ():
        number, task, state, reason, restarts, *_ = (word.strip() for word in line.split("|"))
        jobs.append(QueuedJob(number, int(task) if task.isdigit() else None, state, reason, int(restarts or 0)))
    return jobs
