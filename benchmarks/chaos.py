"""Breaks a training run again and again, and checks that nothing came of it.

    python benchmarks/chaos.py [--faults 120] [--seed 0] [--out benchmarks/results/chaos.json]

Two campaigns on the CPU: one on 2 ranks, one on 1 to 4 ranks drawn anew at every start. Between and during starts
faults are drawn by seed. In the end the ledger of rows must be that of an undisturbed run, every start must have gone
on from the newest whole checkpoint, every start that failed must have said so with its exit status, every evaluation
must be in the metrics, and the final weights must be those of the undisturbed run: bit for bit on 2 ranks, to 1e-5
where the number of ranks changed.

Ranks are forked from this process, which has imported everything: a start then costs seconds. The full disk is a small
tmpfs where root may mount one, else it is left out.
"""

# ruff: noqa: E402
import os

os.environ |= {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}  # before torch is imported

import argparse
import json
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import deepspeed  # noqa: F401
import torch
import transformers  # noqa: F401
from safetensors.torch import load_file

import pretrain.training.evaluation
import pretrain.training.trainer
from pretrain.__main__ import main as pretrain_main
from pretrain.runtime.command import REQUEUE, run_command
from pretrain.training.ledger import read_ledger

CONFIG = {
    "data.sources": '[{"type": "reviews", "count": 400}]',
    "tokenizer.vocab_size": "700",
    "model.type": "llama",
    "model.fields": '{"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2}',
    "packing.row_length": "192",
    "objective.lambda": "0.1",
    "objective.distance": "infonce",
    "train.rows_per_step": "12",
    "train.micro_batch_rows": "2",
    "train.hang_minutes": "0.25",
    "evaluation.every": "3",
    "evaluation.prompts": "2",
    "evaluation.prompt_tokens": "4",
    "evaluation.new_tokens": "4",
    "evaluation.max_records": "24",
    "checkpoint.every": "2",
    "checkpoint.keep_last": "3",
    "logging.every": "1",
    "logging.tensorboard": "false",
    "logging.ledger": "true",
}
START_LIMIT = 120.0
"""Seconds after which a start that neither ended nor took a step counts as a silent hang."""

ONLINE = ("kill_rank", "kill_all", "stop_rank", "terminate", "kill_in_save", "kill_in_save", "full_disk")
ONLINE += ("signal_in_evaluation", "signal_in_evaluation")
ARMED = {"kill_in_save": -signal.SIGKILL, "signal_in_evaluation": REQUEUE}
"""Faults that a rank brings on itself, and how it ends by them."""
OFFLINE = ("truncate", "flip_bit", "delete_shard", "delete_manifest", "delete_newest", "stray_folder")


@dataclass
class Campaign:
    """One run under faults.

    Attributes:
        folder: Of the run.
        ranks: Draws the number of ranks of a start.
        draw: Random numbers.
        faults: What was done, by kind.
        problems: What should not have happened.
        starts: Starts of the run.
        statuses: Exit statuses of ranks.
    """

    folder: Path
    ranks: Callable[[], int]
    draw: random.Random
    small_disk: bool
    faults: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    starts: int = 0
    statuses: Counter[int] = field(default_factory=Counter)

    def run(self, settings: dict[str, str], faults: int) -> None:
        """Starts the run until it has had its faults and is finished."""
        while sum(self.faults.values()) < faults and not (self.folder / "export").exists():
            self.start(settings, self.draw.choice(ONLINE))
            if self.draw.random() < 0.5:
                self.break_checkpoint(self.draw.choice(OFFLINE))
        self.start(settings, None)
        if not (self.folder / "export" / "model.safetensors").exists():
            self.problems.append("the last start, without a fault, did not finish")

    def start(self, settings: dict[str, str], fault: str | None) -> None:
        """One start and perhaps one fault in it."""
        self.starts += 1
        world_size = self.ranks()
        if fault == "full_disk" and not self.small_disk:
            fault = "kill_rank"
        expected = newest_whole(self.folder / "checkpoints")
        victim = self.draw.randrange(world_size)
        arming: Callable[[int], None] | None = None
        if fault == "kill_in_save":
            victim = 0 if self.draw.random() < 0.7 else victim
            arming = kill_at_call(victim, self.draw.randrange(1, 24), self.draw.random() < 0.5)
        elif fault == "signal_in_evaluation":
            number = self.draw.choice((signal.SIGTERM, signal.SIGUSR1))
            arming = signal_in_evaluation(victim, self.draw.randrange(1, 9), number)
        asynchronous = str(self.draw.random() < 0.7).lower()
        here = {"run.folder": str(self.folder), "checkpoint.asynchronous": asynchronous}
        ranks = Ranks(world_size, settings | here, arming)
        after = self.draw.randrange(1, 8)
        begun = ranks.wait_for_steps(self.folder / "ledger", after)
        filler = self.folder / "filler"
        if begun and fault is not None:
            self.strike(fault, ranks, victim, filler)
        statuses = ranks.wait(START_LIMIT, self.folder / "metrics.jsonl")
        filler.unlink(missing_ok=True)
        if statuses is None:
            self.problems.append(f"start {self.starts} ({fault}): a silent hang\n{ranks.tail()}")
            statuses = ranks.end()
        # What was to come within a save or an evaluation counts if it came before the run was finished.
        if fault and (statuses[victim] == ARMED[fault] if fault in ARMED else begun):
            self.faults[fault] += 1
        self.statuses.update(statuses)
        finished = (self.folder / "export" / "model.safetensors").exists()
        if not finished and any(status == 0 for status in statuses):
            self.problems.append(f"start {self.starts} ({fault}): exit status 0 of a run that failed: {statuses}")
        if fault == "terminate" and begun and not finished and set(statuses) != {REQUEUE}:
            self.problems.append(f"start {self.starts}: SIGTERM gave {statuses}, not {REQUEUE}\n{ranks.tail()}")
        if fault == "signal_in_evaluation" and not finished and set(statuses) != {REQUEUE}:
            self.problems.append(f"start {self.starts}: a signal in an evaluation gave {statuses}\n{ranks.tail()}")
        if fault is None and set(statuses) != {0}:
            self.problems.append(f"start {self.starts}: without a fault {statuses}\n{ranks.tail()}")
        if not begun and not finished and fault not in ARMED:
            self.problems.append(f"start {self.starts} ({fault}): no step\n{ranks.tail()}")
        went_on = ranks.first_step(self.folder / "ledger")
        if went_on is not None and went_on != expected:
            self.problems.append(f"start {self.starts}: went on from {went_on}, the newest whole is {expected}")
        ranks.close()

    def strike(self, fault: str, ranks: "Ranks", victim: int, filler: Path) -> None:
        """Does what happens while ranks run."""
        time.sleep(self.draw.random() * 0.3)
        if fault == "kill_rank":
            ranks.signal(victim, signal.SIGKILL)
        elif fault == "kill_all":
            for rank in range(len(ranks.pids)):
                ranks.signal(rank, signal.SIGKILL)
        elif fault == "stop_rank":
            ranks.stopped = victim
            ranks.signal(victim, signal.SIGSTOP)
        elif fault == "terminate":
            ranks.signal(victim, self.draw.choice((signal.SIGTERM, signal.SIGUSR1)))
        elif fault == "full_disk":
            fill(filler)

    def break_checkpoint(self, how: str) -> None:
        """Damages the newest checkpoint, if there is an older one to fall back to."""
        whole = sorted((self.folder / "checkpoints").glob("step_????????"))
        if how == "stray_folder":
            (self.folder / "checkpoints" / "step_99999999.tmp").mkdir(parents=True, exist_ok=True)
            self.faults[how] += 1
            return
        if len(whole) < 2:
            return
        newest = whole[-1]
        parts = sorted(newest.glob("state-*.safetensors"))
        if how in ("truncate", "flip_bit", "delete_shard") and not parts:
            return
        self.faults[how] += 1
        if how == "delete_newest":
            shutil.rmtree(newest)
        elif how == "delete_manifest":
            (newest / "manifest.json").unlink()
        elif how == "delete_shard":
            self.draw.choice(parts).unlink()
        else:
            part = self.draw.choice(parts)
            content = bytearray(part.read_bytes())
            if how == "truncate":
                del content[self.draw.randrange(len(content)) :]
            else:
                content[self.draw.randrange(len(content))] ^= 1 << self.draw.randrange(8)
            part.write_bytes(content)


class Ranks:
    """Forked ranks of one start."""

    def __init__(self, world_size: int, settings: dict[str, str], arming: Callable[[int], None] | None = None) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = str(probe.getsockname()[1])
        self.stopped: int | None = None
        self._logs = Path(tempfile.mkdtemp(prefix="chaos-logs-"))
        self._known: set[Path] = set((Path(settings["run.folder"]) / "ledger").glob("*.jsonl"))
        self.pids = [self._fork(rank, world_size, port, settings, arming) for rank in range(world_size)]
        self._statuses: dict[int, int] = {}

    def _fork(
        self, rank: int, world_size: int, port: str, settings: dict[str, str], arming: Callable[[int], None] | None
    ) -> int:
        pid = os.fork()
        if pid:
            return pid
        status = 99
        try:
            os.setsid()
            out = os.open(self._logs / f"rank-{rank}.txt", os.O_WRONLY | os.O_CREAT)
            for stream in (1, 2):
                os.dup2(out, stream)
            here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_SIZE": world_size}
            os.environ |= {name: str(value) for name, value in here.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            torch.set_num_threads(1)
            sys.argv = ["pretrain", *(f"{key}={value}" for key, value in settings.items())]
            if arming:
                arming(rank)
            status = run_command(pretrain_main)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)

    def signal(self, rank: int, number: int) -> None:
        """Sends a signal to a rank that is still there."""
        if rank not in self.poll():
            os.kill(self.pids[rank], number)

    def poll(self) -> dict[int, int]:
        """Exit statuses (negative: signals) of the ranks that have ended."""
        for rank, pid in enumerate(self.pids):
            if rank not in self._statuses:
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    self._statuses[rank] = os.waitstatus_to_exitcode(status)
        return self._statuses

    def wait_for_steps(self, ledger: Path, count: int) -> bool:
        """Waits until this start has taken some steps; False if it ended before."""
        until = time.monotonic() + START_LIMIT
        while time.monotonic() < until and len(self.poll()) < len(self.pids):
            own = set(ledger.glob("*.jsonl")) - self._known
            if any(path.read_text().count('"step"') >= count for path in own):
                return True
            time.sleep(0.02)
        return False

    def first_step(self, ledger: Path) -> int | None:
        """Step from which this start went on; None if it did not get there."""
        for path in sorted(set(ledger.glob("*.jsonl")) - self._known):
            if line := path.read_text().partition("\n")[0]:
                return int(json.loads(line)["first_step"])
        return None

    def wait(self, limit: float, metrics: Path) -> list[int] | None:
        """Exit statuses; None if a rank is still there after so many seconds without a new line of metrics.

        What a launcher does is done here, too: a rank that was stopped is killed when another has ended.
        """
        until, length = time.monotonic() + limit, -1
        while time.monotonic() < until:
            ended = self.poll()
            if metrics.exists() and metrics.stat().st_size != length:
                until, length = time.monotonic() + limit, metrics.stat().st_size
            if len(ended) == len(self.pids):
                return [ended[rank] for rank in range(len(self.pids))]
            if self.stopped is not None and (set(ended) - {self.stopped} or len(self.pids) == 1):
                os.kill(self.pids[self.stopped], signal.SIGKILL)
                self.stopped = None
            time.sleep(0.02)
        return None

    def end(self) -> list[int]:
        """Kills what is left."""
        for rank, pid in enumerate(self.pids):
            if rank not in self.poll():
                os.kill(pid, signal.SIGKILL)
                self._statuses[rank] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        return [self._statuses[rank] for rank in range(len(self.pids))]

    def tail(self) -> str:
        """The last words of every rank."""
        texts = [(path.name, path.read_text(errors="replace")[-1500:]) for path in sorted(self._logs.iterdir())]
        return "\n".join(f"--- {name}\n{text}" for name, text in texts)

    def close(self) -> None:
        """Removes the logs."""
        shutil.rmtree(self._logs)


def kill_at_call(victim: int, number: int, before: bool) -> Callable[[int], None]:
    """Arms a rank to kill itself at one of its calls that write, move or delete files while it saves."""

    def arm(rank: int) -> None:
        if rank != victim:
            return
        calls = 0

        def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **named: Any) -> Any:
                nonlocal calls
                saving = any("checkpoints" in str(argument) for argument in arguments) or function is fsync
                calls += saving
                if saving and calls == number and before:
                    os.kill(os.getpid(), signal.SIGKILL)
                result = function(*arguments, **named)
                if saving and calls == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        fsync = os.fsync
        for name in ("fsync", "replace", "rename", "unlink", "mkdir", "rmdir"):
            setattr(os, name, deadly(getattr(os, name)))
        shutil.rmtree = deadly(shutil.rmtree)  # type: ignore[assignment]

    return arm


def signal_in_evaluation(victim: int, number: int, signal_number: int) -> Callable[[int], None]:
    """Arms a rank to signal itself when it has asked so many times, within evaluations, whether it is to leave.

    The asking that comes next must end the evaluation on all ranks.
    """

    def arm(rank: int) -> None:
        if rank != victim:
            return
        calls, ask = 0, pretrain.training.evaluation.leave_if_asked

        def call(ranks: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == number:
                os.kill(os.getpid(), signal_number)
            ask(ranks)

        pretrain.training.evaluation.leave_if_asked = call

    return arm


def evaluations(folder: Path) -> dict[int, dict[str, float]]:
    """Held-out figures of a run by step; of a step that was evaluated again, the last."""
    found = {}
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        with suppress(ValueError):  # cut off by a kill or a full disk
            line = json.loads(text)
            if "eval/lm_loss" in line:
                found[line["step"]] = line
    return found


def newest_whole(checkpoints: Path) -> int:
    """Step of the newest whole checkpoint by this program's own reading; 0 if there is none."""
    for folder in sorted(checkpoints.glob("step_????????"), reverse=True):
        try:
            files = json.loads((folder / "manifest.json").read_text())["files"]
            if all(
                sha256((folder / name).read_bytes()).hexdigest() == entry["sha256"] for name, entry in files.items()
            ):
                return int(folder.name.removeprefix("step_"))
        except (OSError, ValueError, KeyError):
            continue
    return 0


def fill(path: Path) -> None:
    """Writes a file until the disk is full."""
    try:
        with path.open("wb", buffering=0) as file:
            while True:
                file.write(b"\0" * 2**16)
    except OSError:
        return


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of a run's export."""
    return load_file(folder / "export" / "model.safetensors")


def largest_difference(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Between two models' weights."""
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def mount(folder: Path, mebibytes: int) -> bool:
    """Mounts a small tmpfs; False where that is not allowed."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=120, help="over both campaigns")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="of the run (two for each fault)")
    parser.add_argument("--out", type=Path, help="result file")
    given = parser.parse_args()
    work = Path(tempfile.mkdtemp(prefix="chaos-"))
    settings = CONFIG | {"train.steps": str(given.steps or 2 * given.faults), "data.folder": str(work / "data")}
    draw = random.Random(given.seed)
    mounted: list[Path] = []
    started = time.monotonic()
    result: dict[str, Any] = {"seed": given.seed, "steps": int(settings["train.steps"]), "campaigns": {}}
    try:
        undisturbed = Campaign(work / "undisturbed", lambda: 2, random.Random(0), False)
        undisturbed.start(settings, None)
        ledger, model = read_ledger(undisturbed.folder / "ledger"), weights(undisturbed.folder)
        evaluated = evaluations(undisturbed.folder)
        problems = list(undisturbed.problems)
        for name, ranks, limit in (
            ("2 ranks", lambda: 2, 0.0),
            ("1 to 4 ranks", lambda: draw.randrange(1, 5), 1e-5),
        ):
            disk = work / f"disk-{len(mounted)}"
            small = mount(disk, 24)
            mounted += [disk]
            campaign = Campaign(disk / "run", ranks, draw, small)
            campaign.run(settings, given.faults // 2)
            found = read_ledger(campaign.folder / "ledger")
            wrong = [step for step in {*ledger, *found} if ledger.get(step) != found.get(step)]
            if wrong:
                campaign.problems.append(f"steps with lost or repeated rows: {sorted(wrong)[:10]} ({len(wrong)})")
            again = evaluations(campaign.folder)
            lost = [step for step in evaluated if again.get(step, {}).keys() != evaluated[step].keys()]
            if lost:
                campaign.problems.append(f"evaluations that are lost or half written: {lost}")
            if not limit and not lost and again != evaluated:
                campaign.problems.append("evaluations that differ from the undisturbed run's")
            difference = largest_difference(model, weights(campaign.folder))
            if not difference <= limit:
                campaign.problems.append(f"final weights differ by {difference:.2g}, allowed {limit:g}")
            problems += campaign.problems
            result["campaigns"][name] = {
                "faults": dict(sorted(campaign.faults.items())),
                "starts": campaign.starts,
                "exit_statuses": {str(status): count for status, count in sorted(campaign.statuses.items())},
                "steps_with_lost_or_repeated_rows": len(wrong),
                "evaluations": len(evaluated),
                "evaluations_lost_or_half_written": len(lost),
                "largest_difference_of_weights": difference,
                "problems": campaign.problems,
            }
    finally:
        for disk in mounted:
            subprocess.run(["umount", str(disk)], capture_output=True)
        shutil.rmtree(work, ignore_errors=True)
    result |= {"faults": sum(sum(part["faults"].values()) for part in result["campaigns"].values())}
    result |= {"problems": len(problems), "minutes": round((time.monotonic() - started) / 60, 1)}
    text = json.dumps(result, indent=1)
    print(text)
    if given.out:
        given.out.write_text(text + "\n", encoding="utf-8")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
