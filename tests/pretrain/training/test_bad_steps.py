"""Bad steps: found, written down, and taken out of the engine without a trace; ranks and data that changed unseen."""

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.loading import load_config
from pretrain.config.sections import TrainConfig
from pretrain.data.corpus import read_corpus
from pretrain.engine.rank_drift import hash_bits
from pretrain.preparation.prepare import prepare
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.training.bad_steps import WINDOW, BadSteps
from pretrain.training.diagnosis import BadStep, RankReport, stop_bad_step
from tests.support.ranks import run_ranks

ALONE = Ranks(0, 1, torch.device("cpu"))
WORKER = Path(__file__).parents[2] / "workers" / "bad_steps.py"
REPORTS: list[RankReport] = [
    {"rank": 0, "values": {"lm loss": 3.5, "pair loss": 0.0}, "rows": [(0, 0, 4)], "records": ["a:1", "a:2"]},
    {"rank": 1, "values": {"lm loss": math.nan, "pair loss": 0.5}, "rows": [(0, 0, 5)], "records": ["a:7"]},
]


def bad_steps(folder: Path, **config: Any) -> BadSteps:
    return BadSteps(TrainConfig(**{"on_bad_step": "skip", **config}), folder)


def record(steps: BadSteps, index: int, reason: str = "the loss is not finite", loss: float = math.nan) -> str:
    return steps.decide(BadStep(index + 1, reason, loss, 1e-3, 1.5, REPORTS), ALONE)


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "bad_steps.jsonl").read_text().splitlines()]


# ------------------------------------------------------------------------------------------------------------- verdicts


def test_a_spike_is_measured_by_the_median_of_the_last_hundred_good_steps(tmp_path: Path) -> None:
    steps = bad_steps(tmp_path, spike_factor=2)
    for number in range(19):
        steps.add_good(1.0 + number / 100)
    assert steps.verdict(1e6) is None  # too few to say what is usual
    steps.add_good(2.0)
    assert steps.verdict(2 * 1.095) is None
    assert steps.verdict(2.2) == "the loss 2.2 is 2.01 times the median 1.095 of the last 20 steps"
    for _ in range(WINDOW):
        steps.add_good(10.0)
    assert steps.verdict(19.9) is None
    assert steps.verdict(20.1) == "the loss 20.1 is 2.01 times the median 10 of the last 100 steps"


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_always_bad(tmp_path: Path, loss: float) -> None:
    assert bad_steps(tmp_path).verdict(loss) == "the loss is not finite"


def test_without_a_factor_no_loss_is_a_spike(tmp_path: Path) -> None:
    steps = bad_steps(tmp_path)
    for _ in range(50):
        steps.add_good(1.0)
    assert steps.verdict(1e30) is None


# -------------------------------------------------------------------------------------------------------------- records


def test_a_bad_step_is_written_down_before_it_is_left_out(tmp_path: Path) -> None:
    steps = bad_steps(tmp_path)
    steps.add_good(2.0)
    assert record(steps, 4) == "skip"
    assert steps.left_out == {4: "the loss is not finite"}
    (line,) = lines(tmp_path)
    assert line == {
        "step": 5,
        "reason": "the loss is not finite",
        "policy": "skip",
        "loss": None,
        "median": 2.0,
        "learning_rate": 1e-3,
        "ranks": [
            {"rank": 0, "values": {"lm loss": 3.5, "pair loss": 0.0}, "rows": [[0, 0, 4]], "records": ["a:1", "a:2"]},
            {"rank": 1, "values": {"lm loss": "nan", "pair loss": 0.5}, "rows": [[0, 0, 5]], "records": ["a:7"]},
        ],
    }


def test_a_record_outlives_a_kill_and_an_older_checkpoint(tmp_path: Path) -> None:
    before = bad_steps(tmp_path, on_bad_step="rollback")
    for number in range(150):
        before.add_good(1 / (number + 3))
    checkpoint = json.loads(json.dumps(before.state_dict()))
    assert record(before, 160) == "rollback"
    with (tmp_path / "bad_steps.jsonl").open("a") as file:
        file.write('{"step": 162, "reas')  # the kill came while the next one was written

    resumed = bad_steps(tmp_path, spike_factor=1.5)
    resumed.load_state_dict(checkpoint, ALONE)
    assert resumed.left_out == {160: "the loss is not finite"}
    assert resumed.median == before.median  # to the last bit: else two runs could decide differently
    record(resumed, 161, "the gradient norm is not finite", 0.5)
    again = bad_steps(tmp_path)
    again.load_state_dict({}, ALONE)
    assert sorted(again.left_out) == [160, 161]


def test_a_checkpoint_knows_the_steps_left_out_where_the_file_is_not(tmp_path: Path) -> None:
    first = bad_steps(tmp_path)
    record(first, 7)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    other = bad_steps(elsewhere)
    other.load_state_dict(json.loads(json.dumps(first.state_dict())), ALONE)
    assert other.left_out == {7: "the loss is not finite"}


def test_more_steps_than_allowed_are_not_left_out(tmp_path: Path) -> None:
    steps = bad_steps(tmp_path, max_bad_steps=2)
    assert [record(steps, index) for index in (3, 5, 8)] == ["skip", "skip", "stop"]
    assert sorted(steps.left_out) == [3, 5]
    later = bad_steps(tmp_path, max_bad_steps=3)  # raised by the user: the step that stopped the run is tried again
    later.load_state_dict({}, ALONE)
    assert sorted(later.left_out) == [3, 5]
    assert later.next_action == "skip"


def test_what_cannot_be_written_down_is_not_left_out(tmp_path: Path) -> None:
    (tmp_path / "bad_steps.jsonl").symlink_to("/dev/full")
    steps = bad_steps(tmp_path)
    with pytest.raises(DiptychError, match="No space left"):
        record(steps, 3)
    assert not steps.left_out
    assert record(bad_steps(tmp_path, on_bad_step="stop"), 3) == "stop"  # the run stops in any case, and says why


def test_stopping_names_the_rank_and_the_remedy(tmp_path: Path) -> None:
    def stop(reason: str, reports: list[RankReport], left_out: int = 0) -> str:
        with pytest.raises(DiptychError) as caught:
            stop_bad_step(BadStep(5, reason, math.nan, 0.001, 1.5, reports), left_out, tmp_path, ALONE)
        return str(caught.value)

    message = stop("the loss is not finite", REPORTS)
    assert message.startswith(
        "step 5: the loss is not finite on rank 1 (lm loss nan, pair loss 0.5); learning rate 0.001"
    )
    assert "train.on_bad_step=skip" in message
    assert "train.max_bad_steps" not in message
    assert "on every rank's gradients together" in stop("the gradient norm is not finite", REPORTS[:1])
    assert "10 bad steps were left out before (train.max_bad_steps)" in stop("the loss 9 is", REPORTS[:1], 10)
    assert json.loads((tmp_path / "diagnosis-step-5.json").read_text())["ranks"][0]["rows"] == [[0, 0, 4]]


# --------------------------------------------------------------------------------------------------------------- hashes


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_every_bit_counts_in_a_hash(data: st.DataObject) -> None:
    kind, integer, width = data.draw(
        st.sampled_from(
            [
                (torch.float32, torch.int32, 32),
                (torch.bfloat16, torch.int16, 16),
                (torch.int64, torch.int64, 64),
                (torch.bool, torch.int8, 1),
            ]
        )
    )
    size = data.draw(st.integers(1, 50))
    tensor = torch.randint(0, 2, (size,)).to(kind)
    before = hash_bits(tensor)
    place, bit = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, width - 1))
    tensor.view(integer)[place] ^= -(2**63) if bit == 63 else torch.tensor(1 << bit).to(integer)
    assert hash_bits(tensor) != before


def test_hashes_tell_places_and_large_tensors_apart() -> None:
    tensor = torch.arange(2**22 + 5, dtype=torch.float32)  # more than a chunk
    other = tensor.clone()
    assert hash_bits(tensor) == hash_bits(other)
    other[[1, -1]] = other[[-1, 1]]
    assert hash_bits(tensor) != hash_bits(other)
    assert hash_bits(torch.zeros(0)) == 0
    assert hash_bits(torch.tensor(1.5)) == hash_bits(torch.tensor([1.5]))


# ----------------------------------------------------------------------------------------------------------------- data


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    data = tmp_path_factory.mktemp("data")
    overrides = ['data.sources=[{"type": "reviews", "count": 400}]', "tokenizer.vocab_size=512", "data.workers=1"]
    config = load_config(None, [*overrides, f"data.folder={data}"])
    return config, prepare(config, quiet=True)


def shard_of(folder: Path) -> Path:
    return next(folder.glob("train/*/*.arrow"))


def test_a_file_that_changes_while_it_is_read_is_named(corpus: tuple[Any, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(corpus[1], tmp_path / "copy"))
    opened = read_corpus(folder)
    opened.check_unchanged()
    shard = shard_of(folder)
    os.utime(shard)
    with pytest.raises(DiptychError, match=r"00000\.arrow: was written to while the run reads it"):
        opened.check_unchanged()
    shard.unlink()
    with pytest.raises(DiptychError, match=r"00000\.arrow: was removed while the run reads it"):
        opened.check_unchanged()


def test_tokens_that_changed_between_runs_are_noticed(corpus: tuple[Any, Path]) -> None:
    config, folder = corpus
    shard, manifest = shard_of(folder), folder / "manifest.json"
    content = shard.read_bytes()
    os.utime(shard)  # younger than the manifest, as in a copy, but the same
    assert prepare(config, quiet=True) == folder
    assert manifest.stat().st_mtime_ns >= shard.stat().st_mtime_ns  # believed from now on
    tokens = read_corpus(folder).train.views(0)[0].tokens
    place = content.index(torch.tensor(tokens, dtype=torch.int32).numpy().tobytes())
    try:
        shard.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(DiptychError, match="changed since the corpus was prepared, and its tokens are not those"):
            prepare(config, quiet=True)
        shard.write_bytes(b"x" * len(content))
        with pytest.raises(DiptychError, match=r"changed since the corpus was prepared, and cannot be read"):
            prepare(config, quiet=True)
    finally:
        shard.write_bytes(content)
    assert prepare(config, quiet=True) == folder


# -------------------------------------------------------------------------------------------------------------- engines

STAGES = [f"zero{stage}-acc{accumulation}" for stage in range(4) for accumulation in (1, 2)]
OTHERS = ["zero0-bf16-acc2", "zero1-bf16-fp32grads-acc2", "zero2-bf16-fp32grads-acc2", "zero3-bf16-fp32grads-acc2"]
OTHERS += ["zero2-offload-acc2", "zero3-offload-acc2"]
MUON = ["zero1-muon-acc2", "zero3-muon-acc2", "zero1-muon-offload-acc2"]
DRIFT = ["drift:zero0-acc1", "drift:zero2-bf16-acc1", "drift:zero3-acc1"]


@pytest.mark.ranks
@pytest.mark.timeout(900)
@pytest.mark.parametrize("cases", [STAGES + DRIFT, OTHERS + MUON], ids=["stages", "others"])
def test_an_abandoned_step_leaves_no_trace_in_the_engine(cases: list[str]) -> None:
    """However far it came, whatever its gradients were; also when the engine is set back to an older state then."""
    result = run_ranks(WORKER, 2, *cases, timeout=800)
    assert [line for line in result[0].output.splitlines() if line.startswith("ok ")] == [
        f"ok {case}" for case in cases
    ]


@pytest.mark.ranks
def test_of_three_ranks_the_odd_one_is_named() -> None:
    run_ranks(WORKER, 3, "drift:zero0-acc1", timeout=120)
