"""Runs that go wrong without crashing: steps left out, going back, ranks that drift, data that changes."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.training.ledger import read_ledger
from tests.support.ranks import run_ranks

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]

WORKER = Path(__file__).parents[2] / "workers" / "bad_runs.py"
STEPS = 12
BASE: dict[str, Any] = {
    "data.sources": [{"type": "reviews", "count": 300}],
    "tokenizer.vocab_size": 768,
    "model.fields": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    "packing.row_length": 256,
    "train.steps": STEPS,
    "train.rows_per_step": 4,
    "train.micro_batch_rows": 1,
    "optimizer.warmup_steps": 3,
    "checkpoint.every": 5,
    "evaluation.max_records": 4,
    "logging.every": 1,
    "logging.ledger": True,
}
SKIP, ROLLBACK = {"train.on_bad_step": "skip"}, {"train.on_bad_step": "rollback"}
SPIKE = {"train.spike_factor": 3}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, plan = tmp_path_factory.mktemp("runs"), []

    def add(name: str, settings: dict[str, Any], known: tuple[int, ...] = (), **options: Any) -> None:
        settings = {**BASE, "data.folder": str(folder / "data"), **settings}
        plan.append((name, [f"{key}={json.dumps(value)}" for key, value in settings.items()], options))
        options["broken"] = {str(index): how for index, how in options.get("broken", {}).items()}

    add("undisturbed", {})
    add("loss", SKIP, broken={7: "loss"})
    add("gradient", SKIP | {"deepspeed.zero_stage": 3}, broken={7: "gradient"})
    add("spike", SKIP | SPIKE, broken={7: "spike"})
    add("killed", SKIP, broken={7: "loss"}, crash_at=9)
    add("killed", SKIP)
    add("skipped three", SKIP | SPIKE, broken={2: "loss", 7: "gradient", 8: "spike"})
    add("back", ROLLBACK | SPIKE, broken={2: "loss", 7: "gradient", 8: "spike"})
    add("stopped", SPIKE, broken={7: "spike"})
    add("too many", SKIP | {"train.max_bad_steps": 1}, broken={3: "loss", 6: "gradient"})
    add("drifted", {"train.compare_ranks_every": 3, "deepspeed.zero_stage": 0}, flip_at=4)
    add("alike", {"train.compare_ranks_every": 3, "train.steps": 6})
    add("touched", {}, touch_at=6)
    (folder / "plan.json").write_text(json.dumps(plan))
    run_ranks(WORKER, 2, folder, folder / "plan.json", timeout=550)
    return folder


def ends(runs: Path, name: str) -> list[str]:
    found: list[str] = json.loads((runs / f"{name}.json").read_text())
    return found


def state(run: Path, step: int = STEPS) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / f"checkpoints/step_{step:08d}/manifest.json").read_text())
    return found


def bad_steps(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "bad_steps.jsonl").read_text().splitlines()]


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def without(*indices: int) -> set[int]:
    return set(range(STEPS)) - set(indices)


def test_however_a_step_is_found_bad_leaving_it_out_gives_the_same_run(runs: Path) -> None:
    """Also after a kill: the run then goes on from step 5, meets the step that it left out, and finds nothing wrong."""
    for name in ("loss", "gradient", "spike", "killed"):
        assert ends(runs, name) == ["finished"] * 2, name
        assert set(read_ledger(runs / name / "ledger")) == without(7), name
        assert state(runs / name)["files"] == state(runs / "loss")["files"], name
        assert state(runs / name)["state"]["optimizer_step"] == STEPS - 1
        assert [index for index, _ in state(runs / name)["state"]["extra"]["bad_steps"]["left_out"]] == [7]
    assert state(runs / "loss")["files"] != state(runs / "undisturbed")["files"]
    assert 8 not in [entry["step"] for entry in events(runs / "loss")]
    assert not (runs / "undisturbed/bad_steps.jsonl").exists()


def test_the_rows_of_a_bad_step_are_written_down_and_the_others_keep_their_steps(runs: Path) -> None:
    straight = read_ledger(runs / "undisturbed/ledger")
    (line,) = bad_steps(runs / "loss")
    assert (line["step"], line["reason"], line["policy"], line["loss"]) == (8, "the loss is not finite", "skip", None)
    assert [report["values"]["lm loss"] == "nan" for report in line["ranks"]] == [False, True]
    assert sorted(tuple(row) for report in line["ranks"] for row in report["rows"]) == straight[7]
    assert all(place.startswith("reviews:") for report in line["ranks"] for place in report["records"])
    left = read_ledger(runs / "loss/ledger")
    assert left == {index: rows for index, rows in straight.items() if index != 7}
    (line,) = bad_steps(runs / "spike")
    assert line["loss"] > 3 * line["median"]
    assert len(bad_steps(runs / "killed")) == 1


def test_going_back_ends_where_skipping_ends(runs: Path) -> None:
    back = runs / "back"
    assert ends(runs, "back") == ends(runs, "skipped three") == ["finished"] * 2
    assert [line["step"] for line in bad_steps(back) if line["policy"] == "rollback"] == [3, 8, 9]
    assert [entry["step"] for entry in events(back) if entry.get("event") == "resume"] == [5, 5]  # none at step 3
    assert set(read_ledger(back / "ledger")) == without(2, 7, 8)
    assert state(back)["files"] == state(runs / "skipped three")["files"]
    assert state(back)["state"]["optimizer_step"] == STEPS - 3


def test_a_spike_stops_the_run_unless_it_is_told_otherwise(runs: Path) -> None:
    error, other = ends(runs, "stopped")
    assert error == other
    assert error.startswith("step 8: the loss ")
    assert " times the median " in error
    assert "No weight was changed" in error
    assert json.loads((runs / "stopped/diagnosis-step-8.json").read_text())["ranks"][1]["rows"]
    assert [line["policy"] for line in bad_steps(runs / "stopped")] == ["stop"]


def test_no_more_steps_are_left_out_than_allowed(runs: Path) -> None:
    error, _ = ends(runs, "too many")
    assert error.startswith("step 7: the gradient norm is not finite on every rank's gradients together")
    assert "train.max_bad_steps" in error
    assert [line["policy"] for line in bad_steps(runs / "too many")] == ["skip", "stop"]


def test_ranks_that_drift_apart_stop(runs: Path) -> None:
    assert ends(runs, "alike") == ["finished"] * 2
    error, other = ends(runs, "drifted")
    assert error == other
    assert "rank 0 on " in error
    assert "rank 1 on " in error
    assert "hold other values than each other" in error


def test_data_that_changes_under_a_run_stops_it_before_it_is_saved(runs: Path) -> None:
    error, other = ends(runs, "touched")
    assert error == other
    assert ".arrow: was written to while the run reads it" in error
    assert [path.name for path in (runs / "touched/checkpoints").glob("step_????????")] == ["step_00000005"]
