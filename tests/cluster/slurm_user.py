"""What a user of a cluster does: submit, wait, look at the files of a run."""

import json
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("mini_slurm.sh")


@dataclass(frozen=True)
class Cluster:
    """The commands of a user on the cluster.

    Attributes:
        folder: Of the cluster's own files.
        environment: With which commands find it.
    """

    folder: Path
    environment: dict[str, str]

    def run(self, *command: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the repository; its result is the caller's to judge."""
        return subprocess.run(
            [str(word) for word in command],
            cwd=ROOT,
            env=self.environment | more,
            capture_output=True,
            text=True,
            timeout=300,
        )

    def sbatch(self, *words: str | Path, **more: str) -> str:
        """Submits; returns the job's number."""
        done = self.run("sbatch", "--parsable", *words, **more)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def ended(self, *jobs: str, seconds: float = 500) -> dict[str, str]:
        """Waits for the end of all tasks of the jobs; returns state and restarts of each, such as COMPLETED 0."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done = self.run(
                "squeue",
                "--array",
                "-h",
                "-t",
                "all",
                "-j",
                ",".join(jobs),
                "--Format=JobArrayID:|,State:|,RestartCnt:|",
            )
            assert done.returncode == 0, done.stderr
            rows = [[word.strip() for word in line.split("|")] for line in done.stdout.splitlines()]
            if all(row[1] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL") for row in rows):
                return {row[0]: f"{row[1]} {row[2]}" for row in rows}
            time.sleep(0.5)
        raise AssertionError(f"jobs {jobs} did not end within {seconds:g} s:\n{done.stdout}")

    def fail(self, node: str) -> None:
        """The node is gone."""
        done = self.run("bash", SCRIPT, "fail", self.folder, node)
        assert done.returncode == 0, done.stderr

    def drain(self, *nodes: str) -> None:
        """Nothing more starts on the nodes."""
        self._update(nodes, "State=DRAIN", "Reason=test")

    def resume(self, *nodes: str) -> None:
        """The nodes take jobs again."""
        self._update(nodes, "State=RESUME")

    def _update(self, nodes: Sequence[str], *words: str) -> None:
        done = self.run("scontrol", "update", f"NodeName={','.join(nodes)}", *words)
        assert done.returncode == 0, done.stderr


def metrics(run: Path) -> list[dict[str, Any]]:
    """Lines of metrics.jsonl; none yet if there is no file."""
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line[-1] == "\n"]


def losses(run: Path) -> dict[int, float]:
    """Loss by step; of a step that was trained again, the last."""
    return {line["step"]: line["train/lm_loss"] for line in metrics(run) if "train/lm_loss" in line}


def wait_for(condition: Callable[[], Any], seconds: float = 300) -> None:
    """Waits until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
