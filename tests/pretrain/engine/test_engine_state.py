"""Training state goes out of one engine and into another, on real ranks, bit for bit."""

import json
from pathlib import Path

import pytest

from tests.support.ranks import run_ranks

WORKER = Path(__file__).parents[2] / "workers" / "engine_state.py"

FP32 = ["zero0", "zero1", "zero2", "zero3", "zero3-subgroups", "zero1-offload", "zero3-offload-offloadparam"]
BF16 = ["zero0-bf16", "zero1-bf16", "zero1-bf16-fp32grads", "zero2-bf16", "zero3-bf16", "zero3-bf16-offload"]
MUON = ["zero1-muon", "zero2-muon", "zero3-muon", "zero1-muon-offload", "zero3-muon-offload"]
MUON_ELSEWHERE = ["zero0-muon", "zero1-muon-bf16", "zero1-muon-bf16-fp32grads", "zero3-muon-bf16"]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every setting: six steps straight, and three, gather, restore into a new engine, three; all within two ranks."""
    folder = tmp_path_factory.mktemp("two_ranks")
    run_ranks(WORKER, 2, folder, *FP32, *BF16, *MUON, *MUON_ELSEWHERE, "errors", timeout=120)
    return folder


def losses(folder: Path, case: str) -> list[float]:
    values: list[float] = json.loads((folder / case / "losses.json").read_text())
    return values


@pytest.mark.ranks
def test_resumed_run_is_the_straight_run_bit_for_bit(two_ranks: Path) -> None:
    for case in (*FP32, *BF16, *MUON, *MUON_ELSEWHERE):
        assert len(losses(two_ranks, case)) == 6  # written once all that the worker checks has held


@pytest.mark.ranks
@pytest.mark.parametrize(("cases", "tolerance"), [(FP32, 1e-5), (BF16, 3e-2), (MUON, 1e-5)])
def test_settings_give_one_curve(two_ranks: Path, cases: list[str], tolerance: float) -> None:
    """Among them stage 0 in bf16, which DeepSpeed 0.19.8 starts one optimizer step ahead: `start_state` undoes it."""
    for case in cases:
        assert losses(two_ranks, case) == pytest.approx(losses(two_ranks, cases[0]), abs=tolerance), case


@pytest.mark.ranks
def test_state_goes_from_two_ranks_to_one_and_to_other_stages(two_ranks: Path) -> None:
    from_two = ["zero0<zero3", "zero1<zero3", "zero2<zero3", "zero3<zero3", "zero3<zero0", "zero3<zero1"]
    from_two += ["zero3-offload<zero3", "zero1-bf16<zero3-bf16", "zero3-bf16<zero1-bf16"]
    from_two += ["zero1-muon<zero3-muon", "zero3-muon<zero2-muon"]
    result = run_ranks(WORKER, 1, two_ranks, *from_two, timeout=60)
    assert result[0].output.count("ok ") == len(from_two)


@pytest.mark.ranks
def test_state_goes_from_one_rank_to_two_and_to_three(two_ranks: Path, tmp_path: Path) -> None:
    alone = ["zero3", "zero1-muon"]
    run_ranks(WORKER, 1, tmp_path, *alone, timeout=60)
    for case in alone:
        assert losses(tmp_path, case) == pytest.approx(losses(two_ranks, case), abs=1e-5)
    run_ranks(WORKER, 2, tmp_path, "zero3<zero3", "zero1<zero3", "zero3-muon<zero1-muon", timeout=60)
    run_ranks(WORKER, 3, tmp_path, "zero3<zero3", "zero1<zero3", "zero2-muon<zero1-muon", timeout=60)


@pytest.mark.ranks
def test_run_ranks_reports_the_rank_that_failed_and_kills_the_one_that_waits(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time\nif os.environ['RANK'] == '1':\n    raise SystemExit('rank one says why')\ntime.sleep(99)"
    )
    with pytest.raises(AssertionError, match=r"(?s)ranks \[0\] still ran.*exit code 1:\nrank one says why"):
        run_ranks(script, 2, timeout=5)
    assert [result.exit_code for result in run_ranks(script, 2, timeout=5, check=False)] == [-9, 1]
