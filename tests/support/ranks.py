"""Start real ranks: one process each, joined over gloo on this machine.

A rank is forked from a process that has imported the slow packages (`preloaded.py`): that saves 5 to 10 s a rank. There
is one such process for each rank number, so that ranks differ where real ones do, as in the hashes of strings.
"""

import functools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class RankResult:
    exit_code: int
    output: str


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_ranks(
    script: str | Path,
    world_size: int,
    *args: str | Path,
    timeout: float = 120,
    env: dict[str, str] | None = None,
    check: bool = True,
) -> list[RankResult]:
    """Run `python script *args` on `world_size` ranks; return exit code and output (stdout and stderr) of each.

    A `script` that starts with `-m ` names a module. When a rank fails the others get 10 s more, since they may be
    waiting for it; past that, or past `timeout` seconds in all, every process group started here is killed. With
    `check` any exit code but 0 raises AssertionError with the end of every rank's output.
    """
    group = {
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
    }
    ranks = [group | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]
    return _run(script, args, ranks, timeout, env or {}, check)


def run_alone(
    script: str | Path, *args: str | Path, timeout: float = 120, env: dict[str, str] | None = None, check: bool = True
) -> RankResult:
    """Run `python script *args` as one process that no launcher started; the rest as in `run_ranks`."""
    return _run(script, args, [{}], timeout, env or {}, check)[0]


class _Forked:
    """A process forked from a preloaded one, with a part of the methods of `subprocess.Popen`."""

    def __init__(self, parent: subprocess.Popen[bytes], command: list[str], env: dict[str, str], log: Path) -> None:
        self._answers = parent.stdout
        self._exit_code: int | None = None
        assert parent.stdin is not None and self._answers is not None
        parent.stdin.write(json.dumps([command, env, str(log)]).encode() + b"\n")
        self.pid = int(self._answers.readline())

    def poll(self) -> int | None:
        if self._exit_code is None and select.select([self._answers], [], [], 0)[0]:
            return self.wait()
        return self._exit_code

    def wait(self) -> int:
        if self._exit_code is None:
            assert self._answers is not None
            self._exit_code = int(self._answers.readline())
        return self._exit_code


@functools.cache
def _preloaded(rank: int, env: tuple[tuple[str, str], ...]) -> subprocess.Popen[bytes]:
    """What the packages read from the environment when they are imported is part of the key. Ends with this process."""
    return subprocess.Popen(
        [sys.executable, Path(__file__).with_name("preloaded.py")],
        env=_environment() | dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    launched = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    return {
        **{name: value for name, value in os.environ.items() if name not in launched},
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }


def _run(
    script: str | Path,
    args: Sequence[str | Path],
    ranks: Sequence[dict[str, str]],
    timeout: float,
    env: dict[str, str],
    check: bool,
) -> list[RankResult]:
    command = [*(str(script).split() if str(script).startswith("-m ") else [str(script)]), *map(str, args)]
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        logs = [Path(folder, f"rank{rank}.log") for rank in range(len(ranks))]
        processes: list[_Forked] = []
        problem = ""
        try:
            parents = [
                _preloaded(rank, tuple(sorted(env.items()))) for rank in range(len(ranks))
            ]  # they import together
            for rank, (parent, log) in enumerate(zip(parents, logs, strict=True)):
                processes.append(_Forked(parent, command, _environment() | ranks[rank] | env, log))
            deadline = time.monotonic() + timeout
            while any(process.poll() is None for process in processes):
                if any(process.poll() for process in processes):
                    deadline = min(deadline, time.monotonic() + 10)
                if time.monotonic() > deadline:
                    waiting = [rank for rank, process in enumerate(processes) if process.poll() is None]
                    problem = f"ranks {waiting} still ran after {timeout:g} s, or 10 s after another failed: killed"
                    break
                time.sleep(0.05)
        finally:
            for process in processes:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        results = [
            RankResult(process.wait(), log.read_text(errors="replace"))
            for process, log in zip(processes, logs, strict=True)
        ]
    if check and (problem or any(result.exit_code for result in results)):
        tails = "".join(
            f"\n--- rank {rank}, exit code {result.exit_code}:\n{result.output[-3000:]}"
            for rank, result in enumerate(results)
        )
        raise AssertionError(f"{Path(str(script)).name} failed on {len(ranks)} ranks. {problem}{tails}")
    return results
