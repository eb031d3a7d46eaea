"""Start real ranks: one process each, joined over gloo on this machine."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
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
    command = [sys.executable, *(str(script).split() if str(script).startswith("-m ") else [str(script)])]
    common = {
        **os.environ,
        "WORLD_SIZE": str(world_size),
        "LOCAL_WORLD_SIZE": str(world_size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "DS_ACCELERATOR": "cpu",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")])),
    }
    with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
        # Files, not pipes: a pipe that nobody reads stops the rank that fills it.
        logs = [Path(folder, f"rank{rank}.log") for rank in range(world_size)]
        processes: list[subprocess.Popen[bytes]] = []
        problem = ""
        try:
            for rank, log in enumerate(logs):
                rank_env = {**common, "RANK": str(rank), "LOCAL_RANK": str(rank), **(env or {})}
                with log.open("wb") as out:
                    processes.append(
                        subprocess.Popen(
                            [*command, *map(str, args)],
                            env=rank_env,
                            stdin=subprocess.DEVNULL,
                            stdout=out,
                            stderr=subprocess.STDOUT,
                            start_new_session=True,
                        )
                    )
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
                process.wait()
        results = [
            RankResult(process.returncode, log.read_text(errors="replace"))
            for process, log in zip(processes, logs, strict=True)
        ]
    if check and (problem or any(result.exit_code for result in results)):
        tails = "".join(
            f"\n--- rank {rank}, exit code {result.exit_code}:\n{result.output[-3000:]}"
            for rank, result in enumerate(results)
        )
        raise AssertionError(f"{Path(str(script)).name} failed on {world_size} ranks. {problem}{tails}")
    return results
