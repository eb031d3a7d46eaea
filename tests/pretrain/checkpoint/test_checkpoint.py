"""Checkpoints are whole or not there: whatever is killed, full, late or broken."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save, save_file

from pretrain.checkpoint import folder as checkpoint_folder
from pretrain.checkpoint import save as checkpoint_save
from pretrain.checkpoint.checkpoints import Checkpoints, read_canary, read_state
from pretrain.checkpoint.files import read_manifest, write_tensors
from pretrain.config.sections import CheckpointConfig
from pretrain.model.canary import canary, check_canary
from pretrain.runtime.errors import DiptychError
from tests.support.ranks import run_ranks
from tests.workers.checkpoint import CANARY, checkpoints, engine, gather, state, version

WORKER = Path(__file__).parents[2] / "workers" / "checkpoint.py"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where that is possible: these tests bring thousands of files to the disk."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="checkpoint-") as name:
        yield Path(name)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints of made-up state, in this process."""
    monkeypatch.setattr(checkpoint_save, "gather_state", gather)


def worker(case: str, folder: Path, *, timeout: float = 280) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(WORKER.parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(WORKER), case, str(folder)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout)


# ------------------------------------------------------------------------------------------------------ killed and full


@pytest.mark.slow
@pytest.mark.parametrize("case", ["every_stage", "many_kills"])
def test_a_kill_at_any_stage_of_a_save_loses_nothing(folder: Path, case: str) -> None:
    done = worker(case, folder)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]


@pytest.mark.ranks
def test_ranks_save_beside_training_fail_together_and_wait_for_late_files(folder: Path) -> None:
    run_ranks(WORKER, 2, "on_ranks", folder, timeout=120)


@pytest.mark.slow
def test_training_that_fails_does_not_wait_for_a_save_in_flight(folder: Path) -> None:
    done = worker("training_fails", folder)  # what it writes takes 1000 s
    assert (done.returncode, done.stderr.strip()) == (1, "training failed"), done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["step_00000010", "step_00000020.tmp"]


def test_what_an_interrupted_save_left_goes_with_the_next(plain: None, tmp_path: Path) -> None:
    (tmp_path / "step_00000007.tmp").mkdir()
    (tmp_path / "step_00000007.tmp/state-00000-000.safetensors").write_bytes(b"half")
    found = checkpoints(tmp_path)
    assert found.newest() == (None, [])
    found.save(engine(10), state(10), CANARY)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000010"]


def test_a_place_that_cannot_be_written_is_named(plain: None, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DiptychError, match=r"^checkpoint of step 10: .*file.*; free space or check the disk$"):
        checkpoints(tmp_path / "file").save(engine(10), state(10), CANARY)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named() -> None:
    with pytest.raises(DiptychError, match=r"^/dev/full: cannot be written \(No space left on device\)$"):
        write_tensors(Path("/dev/full"), {"x": torch.zeros(9)})


def test_what_was_worth_keeping_stays_until_what_replaces_it_is_there(plain: None, tmp_path: Path) -> None:
    found = Checkpoints(tmp_path, CheckpointConfig(keep_last=1), checkpoints(tmp_path).ranks)
    found.worth_keeping = 10
    found.save(engine(10), state(10), CANARY)
    found.begin(engine(20), state(20), CANARY)
    found.worth_keeping = 30  # an evaluation found step 30 better, before step 20 is committed
    found.complete()
    assert sorted(checkpoint_folder.found_steps(tmp_path)) == [10, 20]
    found.save(engine(30), state(30), CANARY)
    assert sorted(checkpoint_folder.found_steps(tmp_path)) == [30]


# ------------------------------------------------------------------------------------------------------ what is written


def test_files_are_those_of_the_safetensors_library(tmp_path: Path) -> None:
    floats = {"b": torch.randn(3, 4), "a": torch.randn(()), "c/weight": torch.randn(0, 2), "ü": torch.randn(7)[::2]}
    entry = write_tensors(tmp_path / "floats", dict(floats))
    assert (tmp_path / "floats").stat().st_size == entry["size"]
    assert (tmp_path / "floats").read_bytes() == save({name: tensor.contiguous() for name, tensor in floats.items()})
    kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8)
    mixed = {str(kind): torch.arange(5).to(kind) for kind in (*kinds, torch.uint8, torch.bool)}
    written = dict(mixed)
    write_tensors(tmp_path / "mixed", written)
    assert not written  # the memory is given back
    read = load_file(tmp_path / "mixed")
    assert read.keys() == mixed.keys()
    assert all(read[name].dtype == tensor.dtype and torch.equal(read[name], tensor) for name, tensor in mixed.items())


@pytest.mark.parametrize("asynchronous", [True, False])
def test_parts_hold_what_was_gathered(
    plain: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asynchronous: bool
) -> None:
    monkeypatch.setattr(checkpoint_save, "PART_BYTES", 4 * 5 * 4 * 3)  # one parameter
    path = checkpoints(tmp_path, asynchronous=asynchronous).save(engine(10), state(10), CANARY)
    names = [f"state-00000-{number:03d}.safetensors" for number in range(3)]
    assert sorted(read_manifest(path)["files"]) == ["buffers.safetensors", "canary.safetensors", *names]
    assert load_file(path / names[1]).keys() == {f"norm.weight/{kind}" for kind in ("weight", "exp_avg", "exp_avg_sq")}
    assert version(path) == 10
    assert read_state(path) == state(10)
    assert all(torch.equal(tensor, CANARY[name]) for name, tensor in read_canary(path).items())


def test_a_stray_file_does_not_count(plain: None, tmp_path: Path) -> None:
    path = checkpoints(tmp_path).save(engine(10), state(10), CANARY)
    save_file({"embed.weight/weight": torch.zeros(4, 5)}, path / "state-00009-000.safetensors")
    (path / "state-00001-000.safetensors").write_bytes(b"\x80\x04no tensors")
    assert checkpoints(tmp_path).newest() == (path, [])
    assert version(path) == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.update(format=2), "checkpoint format 2, this version reads 1"),
        (lambda content: content.pop("files"), "manifest.json is damaged"),
        (
            lambda content: content["files"].update({"../secret": {"size": 1, "sha256": ""}}),
            "manifest.json is damaged",
        ),
        (lambda content: content["files"].update(x={"size": "1"}), "manifest.json is damaged"),
        (lambda content: content["state"].update(strange=1), "of another version of Diptych"),
    ],
)
def test_a_strange_manifest_is_refused(plain: None, tmp_path: Path, change, message: str) -> None:  # type: ignore[no-untyped-def]
    path = checkpoints(tmp_path).save(engine(10), state(10), CANARY)
    content = json.loads((path / "manifest.json").read_text())
    change(content)
    (path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(DiptychError, match=message):
        read_state(path)
    if "version of Diptych" not in message:
        assert message in (checkpoints(tmp_path).problem(path) or "")


def test_a_step_that_made_way_is_put_back(plain: None, tmp_path: Path) -> None:
    path = checkpoints(tmp_path).save(engine(10), state(10), CANARY)
    shutil.copytree(path, tmp_path / "step_00000020.old")
    shutil.copytree(path, tmp_path / "step_00000010.old")  # its successor is there
    assert checkpoints(tmp_path).newest() == (tmp_path / "step_00000020", [])
    checkpoints(tmp_path).save(engine(30), state(30), CANARY)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_00000020", "step_00000030"]


# -------------------------------------------------------------------------------------------------------------- canary


class FakeEngine:
    """Answers with given logits."""

    class Lm:
        config = type("config", (), {"_attn_implementation": "eager", "model_type": "llama"})

        def set_attn_implementation(self, name: str) -> None:
            pass

    def __init__(self, logits: torch.Tensor) -> None:
        self.logits = logits
        self.module = type("module", (), {})()
        self.module.lm = self
        self.config = self.Lm.config
        self.set_attn_implementation = lambda name: None

    def __call__(self, batch: torch.Tensor, use_cache: bool) -> object:
        return type("output", (), {"logits": self.logits})

    def eval(self) -> None:
        pass

    def train(self) -> None:
        pass


def test_the_canary_is_logits_and_a_loss_over_all_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.model.build.plain_attention", lambda lm: "eager")
    cpu, ids = torch.device("cpu"), list(range(12))
    logits = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(0))
    stored = canary(FakeEngine(logits), ids, cpu)
    assert stored["logits"].shape == (1, 4, 20)
    expected = torch.nn.functional.cross_entropy(logits[0, :-1].double(), torch.arange(1, 12))
    assert stored["loss"].dtype == torch.float64
    assert float(stored["loss"]) == pytest.approx(float(expected), rel=1e-12)
    check_canary(FakeEngine(logits), stored, "float32", cpu)
    early = logits.clone()
    early[0, 0, 1] += 1  # the last positions do not tell
    with pytest.raises(DiptychError, match=r"gives other losses than when .* \(\d\.\d+, not \d\.\d+, limit 1e-04\)"):
        check_canary(FakeEngine(early), stored, "float32", cpu)
    check_canary(FakeEngine(early), {name: stored[name] for name in ("ids", "logits")}, "float32", cpu)  # an old one
    late = logits.clone()
    late[0, -1, 1] += 1
    with pytest.raises(DiptychError, match="gives other logits than when the checkpoint was written"):
        check_canary(FakeEngine(late), stored, "float32", cpu)
    with pytest.raises(DiptychError, match="gives other logits"):
        check_canary(FakeEngine(logits * torch.nan), stored, "float32", cpu)
