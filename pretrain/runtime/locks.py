"""Locks that the operating system holds, over NFS and Lustre too, and lets go of when their process dies."""

import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from pretrain.runtime.errors import DiptychError

LOCK_FILE = "lock.json"
REQUEUED_SECONDS = 300.0
FROZEN = "frozen"
"""Folder of the code and config that a submitted job runs, in its run folder."""

_held: dict[Path, IO[str]] = {}


def lock_run(folder: Path) -> str | None:
    """Takes a run folder for this process until it ends, however it ends. For rank 0.

    The content of the lock file only says who has the folder. A lost node may keep its lock for some minutes, until the
    file server notices: then the same Slurm job, requeued, waits.

    Returns:
        A line to show if the file system cannot lock, else None.

    Raises:
        DiptychError: Another process has it; names its job, host and process.
        TimeoutError: A process of this same Slurm job still has it after :data:`REQUEUED_SECONDS`.
    """
    folder = folder.resolve()
    if folder in _held:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    file = (folder / LOCK_FILE).open("a+", encoding="utf-8")
    deadline = time.monotonic() + REQUEUED_SECONDS
    while True:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                return f"note: {folder} cannot be locked ({error.strerror}): start no second job on it"
        file.seek(0)
        owner = file.read()
        problem = f"run.folder {folder}: in use by {_owner(owner)}"
        if not _of_this_job(owner):
            raise DiptychError(f"{problem}; wait for it, end it, or choose another folder")
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, f"{problem}, which is this job itself before it was requeued")
        time.sleep(2)
    file.truncate(0)
    json.dump(_self(), file)
    file.flush()
    _held[folder] = file
    return None


def run_holder(folder: Path) -> tuple[bool, dict[str, Any]]:
    """Whether a living process has the run folder, found out without locking it; and who had it last."""
    try:
        with (folder / LOCK_FILE).open(encoding="utf-8") as file:
            question = struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0)
            is_held = struct.unpack("hhqqi4x", fcntl.fcntl(file, fcntl.F_GETLK, question))[0] != fcntl.F_UNLCK
            owner = json.loads(file.read())
    except (OSError, ValueError):
        return False, {}
    return is_held, owner if isinstance(owner, dict) else {}


@contextmanager
def waiting_lock(path: Path) -> Iterator[None]:
    """Holds a lock file for a block; waits while another process holds it. Holds none where the file system cannot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP):
                raise
        yield


def _self() -> dict[str, Any]:
    job = os.environ.get("SLURM_JOB_ID")
    array = os.environ.get("SLURM_ARRAY_JOB_ID")
    if array:
        job = f"{array}_{os.environ.get('SLURM_ARRAY_TASK_ID')}"
    return {"host": socket.gethostname(), "pid": os.getpid(), "job": job, "started": time.strftime("%FT%T%z")}


def _of_this_job(text: str) -> bool:
    try:
        job = json.loads(text)["job"]
    except (ValueError, KeyError, TypeError):
        return False
    return job is not None and job == _self()["job"]


def _owner(text: str) -> str:
    try:
        owner = json.loads(text)
        job = f"Slurm job {owner['job']}, " if owner["job"] else ""
        return f"{job}process {owner['pid']} on {owner['host']}, since {owner['started']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
