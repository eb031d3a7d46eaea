"""What the subprocesses of test_checkpoint.py run: `workers/checkpoint.py CASE FOLDER`.

Real `Checkpoints`, without DeepSpeed: what `gather_state` yields is made up, by step.
"""

import os
import random
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import torch.distributed as dist

from pretrain.checkpoint import files as checkpoint_files
from pretrain.checkpoint import folder as checkpoint_folder
from pretrain.checkpoint import save as checkpoint_save
from pretrain.checkpoint.checkpoints import Checkpoints, RunState, read_state, read_weights
from pretrain.config.sections import CheckpointConfig
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

NAMES = ("embed.weight", "norm.weight", "head.weight")
CANARY = {"ids": torch.arange(3)[None], "logits": torch.ones(1, 3, 5)}


def engine(version: int) -> Any:
    """Every number in it is `version`."""
    lm = torch.nn.Module()
    lm.register_buffer("count", torch.tensor([version]))
    return SimpleNamespace(module=SimpleNamespace(lm=lm), version=version)


def gather(engine: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    rank, world_size = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    for index, name in enumerate(NAMES):
        kinds = ("weight", "exp_avg", "exp_avg_sq") if index % world_size == rank else ()
        yield f"lm.{name}", {kind: torch.full((4, 5), float(engine.version)) for kind in kinds}


def state(step: int) -> RunState:
    return RunState(step, 0, 0, step, {}, "data", {}, "float32")


def checkpoints(folder: Path, ranks: Ranks | None = None, **settings: Any) -> Checkpoints:
    return Checkpoints(folder, CheckpointConfig(**settings), ranks or Ranks(0, 1, torch.device("cpu")))


def version(path: Path) -> float:
    """The number that all of a checkpoint's tensors hold; checks that they do."""
    weights = read_weights(path)
    assert weights.keys() == {*NAMES, "count"}, weights.keys()
    numbers = {float(number) for tensor in weights.values() for number in tensor.flatten()}
    assert len(numbers) == 1, numbers
    return numbers.pop()


# ------------------------------------------------------------------------------------------------- killed at any stage


class Stages:
    """Ends this process before its n-th change of the file system, or in the middle of writing a file."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.seen: list[str] = []
        self.inside = threading.local()
        for module, name in ((os, "fsync"), (os, "rename"), (os, "rmdir"), (os, "unlink"), (os, "mkdir")):
            self._watch(module, name)
        self._watch(checkpoint_files, "write_manifest")
        sha256 = checkpoint_files.hashlib.sha256

        def watched() -> Any:
            real = sha256()

            def update(data: Any) -> None:  # called after each chunk is written
                self.reached("write")
                real.update(data)

            return SimpleNamespace(update=update, hexdigest=real.hexdigest)

        checkpoint_files.hashlib = SimpleNamespace(sha256=watched, file_digest=checkpoint_files.hashlib.file_digest)  # type: ignore[assignment]

    def _watch(self, module: Any, name: str) -> None:
        real = getattr(module, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            self.reached(name)
            return real(*args, **kwargs)

        setattr(module, name, watched)

    def reached(self, stage: str) -> None:
        if self.left is None:
            return
        self.seen.append(stage)
        self.left -= 1
        if self.left < 0:
            os._exit(9)


def killed(stages: Stages, at: int, action: Callable[[], Any]) -> bool:
    """Runs the action in a fork that is killed at a stage; False if it ended before that."""
    if (child := os.fork()) == 0:
        try:
            stages.left = at
            action()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 9), status
    return status == 9


def whole(folder: Path) -> dict[int, float]:
    """Version of each whole checkpoint, by step."""
    found = checkpoints(folder)
    return {
        step: version(path)
        for step, path in checkpoint_folder.found_steps(folder).items()
        if found.problem(path) is None
    }


def every_stage(folder: Path) -> None:
    """A save killed at each stage: a first one, one that prunes, one of a step that is there already."""
    stages = Stages()
    cases: dict[str, tuple[list[int], int, dict[str, Any]]] = {
        "first": ([], 10, {"keep_last": 1, "asynchronous": True}),
        "pruning": ([10, 20], 30, {"keep_last": 1, "asynchronous": True}),
        "two tiers": ([10, 20, 30], 40, {"keep_last": 1, "keep_every": 20, "asynchronous": False}),
        "again": ([10, 20], 20, {"keep_last": 2, "asynchronous": True}),
        "again, pruning": ([10, 20], 20, {"keep_last": 1, "asynchronous": False}),
    }
    for name, (before, step, settings) in cases.items():
        start = folder / name
        for number in before:
            checkpoints(start, keep_last=9).save(engine(number), state(number), CANARY)
        for at in range(1000):
            run = folder / "run"
            shutil.rmtree(run, ignore_errors=True)
            shutil.copytree(start, run) if before else run.mkdir()

            def save(run: Path = run, step: int = step, settings: dict[str, Any] = settings) -> None:
                checkpoints(run, **settings).save(engine(-1), state(step), CANARY)

            alive = not killed(stages, at, save)
            path, skipped = checkpoints(run).newest()
            where = f"{name}, stage {at}"
            assert skipped == [], (where, skipped)
            found = whole(run)
            assert found.keys() == checkpoint_folder.found_steps(run).keys(), where  # half of one has another name
            if alive:
                assert found[step] == -1, where
                assert sorted(file.name for file in run.iterdir()) == sorted(f"step_{n:08d}" for n in found), where
                break
            # Nothing is lost before what replaces it is there.
            saved = found.get(step) == -1
            if not saved:
                assert found == {number: float(number) for number in before}, (where, found)
            assert path == (run / f"step_{max(found):08d}" if found else None), where
            # What was left behind is in nobody's way.
            save()
            assert whole(run)[step] == -1, where
            assert not [*run.glob("*.tmp"), *run.glob("*.old")], where
        print(f"{name}: {at} stages", flush=True)
        assert at > 15


def many_kills(folder: Path) -> None:
    """Runs that are killed again and again, also while they clean up: never is the newest checkpoint lost."""
    stages = Stages()
    draw = random.Random(0)
    run = folder / "run"
    committed: dict[int, int] = {}
    step, kills = 0, 0
    for attempt in range(60):
        step = draw.choice([step, step + 1])
        number, at = attempt + 1, draw.randrange(70)

        def save(step: int = step, number: int = number) -> None:
            found = checkpoints(run, keep_last=2, asynchronous=draw.random() < 0.5)
            found.newest()
            found.save(engine(number), state(step), CANARY)

        kills += killed(stages, at, save)
        path, skipped = checkpoints(run).newest() if draw.random() < 0.5 else (None, [])
        assert skipped == [], skipped
        if path is None:  # look without repairing, as the next attempt will find it
            continue
        found, newest = whole(run), read_state(path).step
        assert newest == max(found) >= max(committed, default=0), (found, committed)
        assert all(found[one] >= committed[one] for one in found.keys() & committed.keys())
        committed = {one: int(value) for one, value in found.items()}
        step = newest
    print(f"{kills} kills, {len(committed)} checkpoints", flush=True)
    assert kills > 20


# -------------------------------------------------------------------------------------------------------------- ranks


def on_ranks(folder: Path) -> None:
    dist.init_process_group("gloo")
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    saves_beside_training(folder / "a", ranks)
    a_rank_that_cannot_write(folder / "b", ranks)
    late_files(folder / "c", ranks)
    files_that_never_come(folder / "d", ranks)
    dist.barrier()


def saves_beside_training(folder: Path, ranks: Ranks) -> None:
    found = checkpoints(folder, ranks)
    assert found.complete() is None
    assert (found.in_flight, found.written) == (False, False)
    real, gate = checkpoint_save.write_tensors, threading.Event()

    def gated(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        if ranks.rank == 1:
            gate.wait()
        return real(path, tensors)

    checkpoint_save.write_tensors = gated
    found.begin(trained := engine(10), state(10), CANARY)
    trained.module.lm.count.fill_(11)  # training goes on while the copy is written
    assert found.in_flight
    if ranks.rank == 1:
        assert not found.written
        assert not any(folder.glob("step_????????"))
        gate.set()
    while not found.written:
        time.sleep(0.01)
    dist.barrier()
    assert not found.path(10).exists()
    assert found.complete() == found.path(10)
    assert (found.in_flight, found.written) == (False, False)
    assert version(found.path(10)) == 10
    assert 0 < found.stall_seconds <= found.save_seconds + 1
    found.begin(engine(20), state(20), CANARY)
    found.begin(engine(30), state(30), CANARY)  # finishes the other first
    assert found.newest()[0] == found.path(20)
    assert found.save(engine(99), state(30), CANARY) == found.path(30)  # what is in flight is that step
    assert version(found.path(30)) == 30
    assert sorted(read_weights(found.path(30))) == sorted([*NAMES, "count"])
    checkpoint_save.write_tensors = real
    dist.barrier()


def a_rank_that_cannot_write(folder: Path, ranks: Ranks) -> None:
    found = checkpoints(folder, ranks)
    found.save(engine(10), state(10), CANARY)
    real = checkpoint_save.write_tensors

    def failing(path: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
        if ranks.rank == 1:
            raise problem
        return real(path, tensors)

    checkpoint_save.write_tensors = failing
    for asynchronous in (True, False):
        for problem in (DiptychError("disk: full"), MemoryError("none left")):
            found.config = CheckpointConfig(asynchronous=asynchronous)
            found.begin(engine(20), state(20), CANARY)
            try:
                found.complete()
            except DiptychError as error:
                assert str(error).startswith("checkpoint of step 20: "), error
                assert str(problem) in str(error), error
            else:
                raise AssertionError("nobody heard of it")
            dist.barrier()
            assert not found.in_flight
            assert [path.name for path in folder.iterdir()] == ["step_00000010"]
            dist.barrier()
    checkpoint_save.write_tensors = real
    found.save(engine(20), state(20), CANARY)
    assert version(found.newest()[0] or folder) == 20


def late_files(folder: Path, ranks: Ranks) -> None:
    """Rank 1 has a view of its own of the relative path `late`; there all arrives later, the manifest before a part."""
    own = folder / str(ranks.rank)
    own.mkdir(parents=True)
    os.chdir(own)
    if ranks.is_main:
        alone = Ranks(0, 1, ranks.device)
        for step in (10, 20):
            dist_initialized, dist.is_initialized = dist.is_initialized, lambda: False
            checkpoints(Path("late"), alone).save(engine(step), state(step), CANARY)
            dist.is_initialized = dist_initialized
    dist.barrier()

    def arrive() -> None:
        for path in sorted((folder / "0/late/step_00000020").iterdir()):
            time.sleep(0.3)
            target = own / "late/step_00000020" / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = path.read_bytes()
            target.write_bytes(content[: len(content) // 2])
            time.sleep(0.1)
            target.write_bytes(content)

    if ranks.rank == 1:
        threading.Thread(target=arrive).start()
    path, skipped = checkpoints(Path("late"), ranks).newest()
    assert (path, skipped) == (Path("late/step_00000020"), []), (path, skipped)
    assert path is not None
    assert read_state(path).step == 20
    assert version(path) == 20
    dist.barrier()


def files_that_never_come(folder: Path, ranks: Ranks) -> None:
    """Then the run must not quietly go on from an older checkpoint, nor begin anew."""
    late_files(folder, ranks)
    checkpoint_files.VISIBLE_SECONDS = 0.2
    if ranks.rank == 1:
        Path("late/step_00000020/canary.safetensors").unlink()
    dist.barrier()
    try:
        checkpoints(Path("late"), ranks).newest()
    except DiptychError as error:
        assert "canary.safetensors: rank 0 sees it, another rank does not" in str(error), error
    else:
        raise AssertionError("the newest checkpoint was passed over")
    # What rank 0 does not see is missing, and the one before counts.
    if ranks.is_main:
        Path("late/step_00000020/canary.safetensors").unlink()
    elif ranks.rank == 1:
        shutil.copytree(folder / "0/late/step_00000010", "late/step_00000010")
    dist.barrier()
    path, skipped = checkpoints(Path("late"), ranks).newest()
    assert path == Path("late/step_00000010")
    assert skipped == ["skipping checkpoint late/step_00000020: canary.safetensors is missing"]


# ------------------------------------------------------------------------------------------------ the end of a process


def training_fails(folder: Path) -> None:
    """An exception while a thread writes something that takes for ever."""
    found = checkpoints(folder)
    found.save(engine(10), state(10), CANARY)
    checkpoint_save.write_tensors = lambda path, tensors: time.sleep(1000)  # type: ignore[assignment,return-value]
    found.begin(engine(20), state(20), CANARY)
    raise SystemExit("training failed")


CASES = {
    "every_stage": every_stage,
    "many_kills": many_kills,
    "on_ranks": on_ranks,
    "training_fails": training_fails,
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    checkpoint_save.gather_state = gather
    CASES[sys.argv[1]](Path(sys.argv[2]))
    sys.stdout.flush()
    if dist.is_initialized():
        os._exit(0)  # gloo's threads outlive the group and sometimes abort the interpreter's end
