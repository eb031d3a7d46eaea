"""How a run ends before its end: a signal, a hang, a second job on its folder; and that nothing is lost by it."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from pretrain.data.corpus import Pairs
from pretrain.data.schedule import MicroBatch, PackedRow, Step
from pretrain.preparation.workers import WorkerPool
from pretrain.runtime import locks
from pretrain.runtime.command import HUNG
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.locks import LOCK_FILE, lock_run
from pretrain.runtime.preemption import SIGNALS, Preempted, Preemption, preemption
from pretrain.runtime.watchdog import Watchdog
from pretrain.training.ledger import Ledger, next_attempt, read_ledger
from tests.pretrain.training.test_training import BASE, Settings, arguments, curve, manifest
from tests.support.ranks import REPOSITORY, RankResult, run_ranks

STEPS, LONGER = 8, 10
SETTINGS: Settings = BASE | {
    "train.steps": STEPS,
    "checkpoint.every": 3,
    "checkpoint.keep_last": 3,
    "checkpoint.notice_seconds": 0.001,
    "optimizer.min_lr_ratio": 1,  # so that a longer run is the same as far as the shorter one goes
    "evaluation.every": 4,
    "probe.every": 4,
    "probe.max_records": 20,
    "data.heldout_fraction": 0.1,
    "logging.ledger": True,
}


PLACES = [("evaluation", 0), ("evaluation", 4), ("samples", 4), ("probe", 4), ("scores", 4), ("export", STEPS)]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[RankResult]]:
    """A run to its end while the clock jumps; one stopped where an evaluation is due and at the end; one stopped within
    all that is done between steps; one that goes back twice; one that is trained longer; one that hangs."""
    folder = tmp_path_factory.mktemp("stopping")
    settings = arguments(SETTINGS | {"data.folder": str(folder / "data")})
    end, six = f"checkpoints/step_{STEPS:08d}", folder / "back" / "checkpoints" / "step_00000006"
    plan = [
        ("straight", [*settings, "train.hang_minutes=1"], {"clock_jumps": True}),
        ("stopped", settings, {"signal_at": 4}),
        ("stopped", settings, {"signal_at": STEPS}),
        ("stopped", settings, {}),
        *(("left", settings, {"signal_in": place}) for place in PLACES),
        ("left", settings, {}),
        *(("back", [*settings, f"run.resume={place}"], {}) for place in ("auto", six, six, folder / "left" / end)),
        ("back", [*settings, f"run.resume={folder / 'nowhere' / 'step_1'}"], {}),
        ("straight", [*settings, f"train.steps={LONGER}"], {}),
        ("longer", [*settings, f"train.steps={LONGER}", f"run.resume={folder / 'straight' / end}"], {}),
        ("long", [*settings, f"train.steps={LONGER}"], {}),
        ("hangs", [*settings, "train.hang_minutes=0.1"], {"hang_at": 4}),
    ]
    (folder / "plan.json").write_text(json.dumps(plan))
    worker = Path(__file__).parents[2] / "workers" / "stopping.py"
    return folder, run_ranks(worker, 2, folder, folder / "plan.json", timeout=400, check=False)


@pytest.mark.ranks
@pytest.mark.timeout(500)
def test_a_signal_to_one_rank_stops_all_after_the_same_step_and_a_later_start_goes_on_exactly(
    runs: tuple[Path, list[RankResult]],
) -> None:
    folder, results = runs
    for result in results:
        said = [line for line in result.output.splitlines() if line.startswith("=== stopped")]
        assert [line.split(" is saved")[0].rpartition(": ")[2] for line in said] == [
            f"step 4 of {STEPS}",
            f"step {STEPS} of {STEPS}",
        ], result.output[-3000:]
    assert "warning: " in results[0].output and "checkpoint.notice_seconds" in results[0].output
    straight, stopped = folder / "straight", folder / "stopped"
    assert curve(stopped) == curve(straight)  # the evaluation and probe of step 4 and 8 included
    assert {4, STEPS} <= {step for step, values in curve(stopped).items() if "eval/lm_loss" in values}
    assert manifest(stopped, STEPS)["files"] == manifest(straight, STEPS)["files"]
    assert read_ledger(stopped / "ledger") == read_ledger(straight / "ledger")
    assert (stopped / "export" / "model.safetensors").is_file()


@pytest.mark.ranks
@pytest.mark.timeout(500)
def test_a_signal_within_evaluation_probe_or_export_is_obeyed_by_all_ranks_and_what_was_left_is_done_later(
    runs: tuple[Path, list[RankResult]],
) -> None:
    folder, results = runs
    for result in results:
        said = [line.partition(": ")[2] for line in result.output.splitlines() if line.startswith("=== left")]
        saved = f"asked to stop: step 4 of {STEPS} is saved; start the run again to go on"
        assert said == [
            "asked to stop before the first step; start the run again",
            *[saved] * 4,
            "asked to stop during the export; start the run again to export",
        ], result.output[-3000:]
    straight, left = folder / "straight", folder / "left"
    assert curve(left) == curve(straight)
    assert manifest(left, STEPS)["files"] == manifest(straight, STEPS)["files"]
    assert manifest(left, 6)["files"] == manifest(straight, 6)["files"]
    assert read_ledger(left / "ledger") == read_ledger(straight / "ledger")
    lines = [json.loads(line) for line in (left / "metrics.jsonl").read_text().splitlines()]
    counted = {name: [line["step"] for line in lines if name in line] for name in ("eval/lm_loss", "probe/accuracy")}
    assert counted == {"eval/lm_loss": [0, 4, STEPS], "probe/accuracy": [0, 4, STEPS]}  # nothing half, nothing twice
    assert (left / "samples.txt").read_text() == (straight / "samples.txt").read_text()
    names = [file.name for file in (straight / "export").iterdir()]
    assert [file.name for file in (left / "export").iterdir()] == names
    assert not list(left.glob("*.tmp"))


@pytest.mark.ranks
@pytest.mark.timeout(500)
def test_a_run_goes_back_to_the_checkpoint_that_is_named_once_and_keeps_what_came_later(
    runs: tuple[Path, list[RankResult]],
) -> None:
    folder, results = runs
    back, straight = folder / "back", folder / "straight"
    screen = results[0].output
    aside, six = back / "set-aside-1", back / "checkpoints" / "step_00000006"
    assert f"goes back to step_00000006: step_0000000{STEPS} and the export were moved to {aside}" in screen
    assert f"resumed from {six}" in screen
    assert f"run.resume {six}: step_0000000{STEPS} was trained from it, and goes on" in screen
    assert f"resumed from {back / 'checkpoints' / f'step_0000000{STEPS}'}" in screen
    events = [json.loads(line) for line in (back / "metrics.jsonl").read_text().splitlines() if "event" in line]
    assert [event["step"] for event in events] == [6, STEPS]
    other = folder / "left" / "checkpoints" / f"step_0000000{STEPS}"
    for result in results:
        assert f"=== back: run.resume {folder / 'nowhere' / 'step_1'}: no such path; name a checkpoint" in result.output
        assert f"=== back: run.resume {other}: {back / 'checkpoints'}/step_0000000{STEPS} of this run does not" in (
            result.output
        )
    for place in (back / "checkpoints", aside):
        assert (
            json.loads((place / f"step_0000000{STEPS}" / "manifest.json").read_text())["files"]
            == (manifest(straight, STEPS)["files"])
        )
    assert (aside / "export" / "model.safetensors").is_file() and (back / "export" / "model.safetensors").is_file()
    assert read_ledger(back / "ledger") == read_ledger(straight / "ledger")


@pytest.mark.ranks
@pytest.mark.timeout(500)
def test_training_longer_is_refused_with_the_way_that_works(runs: tuple[Path, list[RankResult]]) -> None:
    folder, results = runs
    end = folder / "straight" / "checkpoints" / f"step_0000000{STEPS}"
    said = (
        f"=== straight: run.folder {folder / 'straight'}: holds another run; choose another folder. It differs in\n"
        f"  train.steps: {STEPS} -> {LONGER}\n"
        f"  a run in another folder may start from its last checkpoint: run.resume={end}\n"
    )
    assert all(said in result.output for result in results)
    assert manifest(folder / "longer", LONGER)["files"] == manifest(folder / "long", LONGER)["files"]


@pytest.mark.ranks
@pytest.mark.timeout(500)
def test_a_hang_ends_every_rank_with_its_stack_traces(runs: tuple[Path, list[RankResult]]) -> None:
    folder, results = runs
    assert [result.exit_code for result in results] == [HUNG, HUNG], results[0].output[-3000:]
    traces = [next((folder / "hangs" / "traces").glob(f"rank-{rank:05d}-*.txt")).read_text() for rank in range(2)]
    assert "no progress since: step 4" in traces[0] and "no progress since: waiting for the data of step 4" in traces[1]
    assert "time.sleep" not in traces[0] and "workers/stopping.py" in traces[1]
    assert "train.hang_minutes" in results[0].output


def test_a_signal_before_training_ends_the_process_at_once(tmp_path: Path) -> None:
    program = (
        "import time; from pretrain.runtime.command import *; from pretrain.runtime.preemption import preemption\n"
        "def main(argv):\n print('on', flush=True); time.sleep(60)\nexit_rank(run_command(main, BEFORE_TRAINING))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 85 and "stopped by SIGTERM before training began" in said


def test_signals_are_only_noted_while_a_run_trains_and_children_keep_their_default() -> None:
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        preemption = Preemption()
        preemption.listen()
        with preemption.kept():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert preemption.received == "SIGUSR1"
            ready, told = os.pipe()
            child = os.fork()
            if child == 0:
                os.write(told, b".")
                time.sleep(60)
                os._exit(0)
            os.read(ready, 1)
            os.kill(child, signal.SIGTERM)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
        os.kill(os.getpid(), signal.SIGTERM)  # a second one, of a process that is stopping already
        time.sleep(0.1)
        again = Preemption()
        again.listen()
        with again.kept(), pytest.raises(Preempted), again.raised():  # as an export while a run trains
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.fixture
def listening() -> Iterator[Preemption]:
    """The product's own listener, as before a run trains."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        preemption.listen()
        with preemption.raised():
            yield preemption
    finally:
        preemption.received, preemption._listener = None, None
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_signal_to_every_process_of_a_step_ends_preparation_and_its_workers(listening: Preemption) -> None:
    def tell() -> None:
        while len(workers := multiprocessing.active_children()) < 2:
            time.sleep(0.01)
        for pid in (*(worker.pid for worker in workers), os.getpid()):
            assert pid is not None
            os.kill(pid, signal.SIGUSR1)

    threading.Thread(target=tell).start()
    with pytest.raises(Preempted):
        list(WorkerPool(2, quiet=True).run("waits", time.sleep, [60.0, 60.0], total=2))
    assert multiprocessing.active_children() == []


def test_work_of_one_rank_while_a_run_trains_is_left_only_where_that_is_said(listening: Preemption) -> None:
    ranks = Ranks(0, 1, torch.device("cpu"))
    done = []

    def work() -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        done.append("to its end")

    with listening.kept():
        ranks.agree(work)
        assert done == ["to its end"]
        with pytest.raises(Preempted):
            ranks.agree(lambda: done.append("begun"), long=True)
        listening.received = None
        with pytest.raises(Preempted):
            ranks.on_main(work, long=True)
    assert done == ["to its end"]


def test_a_second_job_on_a_run_folder_is_refused_with_the_first_ones_job_id(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from pretrain.runtime.locks import lock_run\n"
        "lock_run(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.read()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path / "run"],
        cwd=REPOSITORY,
        env=os.environ | {"SLURM_JOB_ID": "4711"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout is not None and first.stdout.readline() == "locked\n"
    with pytest.raises(DiptychError, match=rf"in use by Slurm job 4711, process {first.pid} on .*; wait for it"):
        lock_run(tmp_path / "run")
    first.kill()
    first.communicate(timeout=30)
    assert lock_run(tmp_path / "run") is None  # nothing is left over by a kill
    assert lock_run(tmp_path / "run") is None
    assert json.loads((tmp_path / "run" / LOCK_FILE).read_text())["pid"] == os.getpid()


def test_the_ledger_keeps_what_made_the_weights(tmp_path: Path) -> None:
    def step(index: int, *rows: int) -> Step:
        none = np.zeros((0, 2), np.int64)
        pairs = Pairs(none, none, none.astype(np.bool_), none, none)
        made = tuple(PackedRow(0, 0, row, none[:, 0], pairs, none[:, 0].astype(np.bool_), 0) for row in rows)
        return Step(index, 1, 1, (MicroBatch((*made, None), 1, 1),))

    for attempt, rank, first, steps in (
        (1, 0, 0, [step(0, 0), step(1, 2), step(2, 4)]),
        (1, 1, 0, [step(0, 1), step(1, 3)]),  # was killed before it had written step 2
        (2, 0, 2, [step(2, 4, 5), step(3, 6, 7)]),  # one rank, from the checkpoint after two steps
    ):
        ledger = Ledger(tmp_path, attempt, rank, first)
        for each in steps:
            ledger.add(each)
    with (tmp_path / "attempt-0002-rank-00000.jsonl").open("a") as file:
        file.write('{"step": 4, "ro')
    assert next_attempt(tmp_path) == 3
    assert read_ledger(tmp_path) == {step: [(0, 0, 2 * step), (0, 0, 2 * step + 1)] for step in range(4)}


@pytest.mark.slow
def test_the_same_slurm_job_waits_for_its_own_lock_and_a_restart_may_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(locks, "REQUEUED_SECONDS", 3.0)
    program = (
        "import sys; from pathlib import Path; from pretrain.runtime.locks import lock_run\n"
        "lock_run(Path(sys.argv[1])); print('locked', flush=True); sys.stdin.readline()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, **pipes) as first:  # type: ignore[call-overload]
        assert first.stdout.readline() == "locked\n"
        with pytest.raises(TimeoutError, match="this job itself before it was requeued"):
            lock_run(tmp_path)
        threading.Timer(1.0, lambda: first.communicate("go\n")).start()
        assert lock_run(tmp_path) is None


def test_what_nobody_expected_leaves_last_steps_and_stacks(tmp_path: Path) -> None:
    watchdog = Watchdog(tmp_path / "traces", 3, limit_minutes=0)
    with pytest.raises(DiptychError), watchdog.traced():
        raise DiptychError("a user's mistake")
    assert not (tmp_path / "traces").exists()
    watchdog.beat("step 5")
    with pytest.raises(RuntimeError), watchdog.traced():
        raise RuntimeError("Connection closed by peer")
    (report,) = (tmp_path / "traces").glob("rank-00003-*.txt")
    text = report.read_text()
    assert (
        "ended by RuntimeError: Connection closed by peer" in text and "step 5" in text and "test_stopping.py" in text
    )


def test_a_file_system_that_is_away_is_no_users_mistake() -> None:
    alone = Ranks(0, 1, torch.device("cpu"))

    def fail(number: int) -> None:
        raise OSError(number, os.strerror(number), "/shared/runs")

    with pytest.raises(DiptychError, match="/shared/runs: No space left"):
        alone.agree(lambda: fail(errno.ENOSPC))
    with pytest.raises(OSError, match="/shared/runs: Stale file handle"):
        alone.agree(lambda: fail(errno.ESTALE))
