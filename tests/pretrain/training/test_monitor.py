"""metrics.jsonl: one line at a time, never rewritten, and a resumption that says what it supersedes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.config.sections import LoggingConfig
from pretrain.training.monitor import Monitor, peak_flops

QUIET = LoggingConfig(tensorboard=False, progress_bar=False)
TRAINING = {
    "train/lm_loss": 2.5,
    "train/pair_loss": 0.125,
    "train/grad_norm": 1.5,
    "speed/label_tokens_per_second": 1234.0,
}


def monitor(folder: Path, first: int = 0, *, active: bool = True, config: LoggingConfig = QUIET) -> Monitor:
    return Monitor(folder, config, active=active, first_step=first, num_steps=9)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_metrics_are_only_appended_and_a_resumption_is_marked(tmp_path: Path) -> None:
    first = monitor(tmp_path)
    first.log(3, TRAINING)
    before = (tmp_path / "metrics.jsonl").read_bytes()  # on disk before the run ends: a killed run loses nothing
    assert lines(tmp_path) == [{"step": 3, **TRAINING}]
    first.log(6, TRAINING)
    first.close()
    second = monitor(tmp_path, first=3)
    second.log(6, {"train/lm_loss": 1.0} | TRAINING)
    second.close()
    assert (tmp_path / "metrics.jsonl").read_bytes().startswith(before)
    assert [line.get("event", line["step"]) for line in lines(tmp_path)] == [3, 6, "resume", 6]
    assert lines(tmp_path)[2] == {"event": "resume", "step": 3}


def test_a_start_has_no_resume_line(tmp_path: Path) -> None:
    monitor(tmp_path).close()
    assert lines(tmp_path) == []


def test_only_rank_0_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    silent = monitor(tmp_path, first=3, active=False)
    silent.log(4, TRAINING)
    silent.samples(4, [("a", "b")])
    silent.say("nothing")
    silent.advance()
    silent.close()
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "")


def test_samples_are_appended_with_their_step(tmp_path: Path) -> None:
    for step in (2, 4):
        one = monitor(tmp_path)
        one.samples(step, [("a dog", "barks"), ("a cat", "")])
        one.samples(step, [])
        one.close()
    text = "--- step {}\n[a dog] barks\n[a cat] \n"
    assert (tmp_path / "samples.txt").read_text() == text.format(2) + text.format(4)


def test_without_a_terminal_a_line_says_how_far_the_run_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = monitor(tmp_path)
    one.log(1, TRAINING)
    assert "left" not in capsys.readouterr().err  # the first step warms up and tells nothing of the others
    one.advance()
    one.log(3, TRAINING)
    one.close()
    said = capsys.readouterr().err
    assert "step 3/9  lm 2.500  pair 0.1250  grad norm 1.500  1,234 label tokens/s  about 0m" in said


def test_tensorboard_gets_the_same_names(tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    config = LoggingConfig(tensorboard=True, progress_bar=False)
    for first, steps in [(0, (3, 6)), (3, (6,))]:
        one = monitor(tmp_path, first=first, config=config)
        for step in steps:
            one.log(step, TRAINING | {"train/lm_loss": step + first / 10})
        one.close()
    events = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == set(TRAINING)
    last = {event.step: event.value for event in events.Scalars("train/lm_loss")}
    assert last == pytest.approx({3: 3.0, 6: 6.3})


def test_peak_of_a_device_is_what_the_user_says_or_unknown() -> None:
    assert peak_flops(LoggingConfig(peak_tflops=2.5), torch.device("cpu"), torch.float32) == 2.5e12
    assert peak_flops(LoggingConfig(), torch.device("cpu"), torch.bfloat16) is None


@pytest.mark.parametrize(
    ("name", "tflops"),
    [("NVIDIA H200", 989.0), ("NVIDIA H100 80GB HBM3", 989.0), ("NVIDIA H100 PCIe", 756.0), ("NVIDIA L40S", 362.0),
     ("NVIDIA L4", 121.0), ("NVIDIA A100-SXM4-80GB", 312.0), ("NVIDIA A40", 149.7),
     ("NVIDIA L40", None), ("NVIDIA RTX A4000", None), ("NVIDIA GeForce", None)],
)  # fmt: skip
def test_peak_is_looked_up_by_name(name: str, tflops: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    expected = None if tflops is None else tflops * 1e12
    assert peak_flops(LoggingConfig(), torch.device("cuda"), torch.bfloat16) == expected
    assert peak_flops(LoggingConfig(), torch.device("cuda"), torch.float32) is None
