"""Pipelines before they are submitted, what is frozen, and the table of runs; scripts play Slurm's commands."""

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from launch import status, submit
from launch.pipeline import plan_runs, read_pipeline
from launch.slurm_queue import QueuedJob
from pretrain.config.loading import load_config
from pretrain.runtime.errors import DiptychError

ROOT = Path(__file__).parents[2]
TINY = {
    "data": {"sources": [{"type": "reviews", "count": 300}]},
    "model": {"fields": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}},
    "train": {"steps": 100},
}


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two configs; Slurm's commands are found in bin/ first."""
    (tmp_path / "pre.yaml").write_text(yaml.safe_dump(TINY))
    (tmp_path / "train.jsonl").write_text('{"text": "good", "label": 1}\n')
    task = {"task": {"name": "sentiment"}, "data": {"train": "train.jsonl"}, "model": {"lora": {"rank": 4}}}
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(task))
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", f"{tmp_path}/bin{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def command(here: Path, name: str, script: str) -> None:
    path = here / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def write(here: Path, **changes: Any) -> Path:
    """A pipeline of two settings and two seeds; a change of None leaves a key out."""
    tree: dict[str, Any] = {
        "folder": "runs/both",
        "sbatch": {"nodes": 2, "ntasks-per-node": 4},
        "seeds": [0, 1],
        "settings": {
            "plain": {"objective.lambda": 0},
            "mixed": {"objective.lambda": 0.5, "finetune": {"objective.lambda": 0.25}},
        },
        "pretrain": {"config": "pre.yaml", "set": {"optimizer.lr": 1e-05}},
        "finetune": {"config": "task.yaml", "sbatch": {"nodes": 1, "requeue": False}},
        "probe": {"arguments": ["--data", "reviews"]},
    }
    tree |= changes
    path = here / "pipeline.yaml"
    given = {key: value for key, value in tree.items() if value is not None}
    path.write_text(yaml.safe_dump(given, sort_keys=False))
    return path


def test_fine_tuning_takes_the_architecture_of_its_pre_training(here: Path) -> None:
    task = yaml.safe_load((here / "task.yaml").read_text())
    task["model"] = {"type": "llama", "activation_checkpointing": True, **TINY["model"]}  # a config from scratch
    (here / "task.yaml").write_text(yaml.safe_dump(task))
    model = yaml.safe_load(plan_runs(read_pipeline(write(here)))["finetune"][0].text)["model"]
    assert model == {"path": "runs/both/pretrain/plain-seed0/export", "activation_checkpointing": True}
    alone = plan_runs(read_pipeline(write(here, pretrain=None)))["finetune"][0].text
    assert yaml.safe_load(alone)["model"]["fields"] == TINY["model"]["fields"]
    (here / "task.yaml").write_text("model: [no mapping")
    with pytest.raises(DiptychError, match=r"finetune plain-seed0: task.yaml:1: invalid YAML"):
        plan_runs(read_pipeline(write(here)))


def test_every_setting_and_seed_is_a_run_with_a_folder_and_a_config_that_reads_back(here: Path) -> None:
    runs = plan_runs(read_pipeline(write(here)))
    names = ["plain-seed0", "plain-seed1", "mixed-seed0", "mixed-seed1"]
    assert [run.name for run in runs["pretrain"]] == [run.name for run in runs["finetune"]] == names
    last = runs["pretrain"][-1]
    assert last.folder == Path("runs/both/pretrain/mixed-seed1")
    (here / "frozen.yaml").write_text(last.text)
    assert load_config(here / "frozen.yaml") == last.config
    assert (last.config.run.seed, last.config.objective.lambda_, last.config.optimizer.lr) == (1, 0.5, 1e-5)
    tuned = yaml.safe_load(runs["finetune"][-1].text)
    assert tuned["objective"]["lambda"] == 0.25
    assert tuned["model"]["path"] == tuned["tokenizer"]["path"] == "runs/both/pretrain/mixed-seed1/export"


def test_a_dry_run_prints_scripts_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(here.rglob("*"))
    pipeline = write(here, at_once=2)
    assert submit.main([str(pipeline), "--dry-run"]) == 0
    screen = capsys.readouterr().out
    assert sorted(here.rglob("*")) == sorted([*before, pipeline])
    first, second, third = screen.split("# ---- ")[1:]
    assert first.startswith("sbatch runs/both/submitted/pretrain.sbatch\n#!/bin/bash\n")
    for line in ("signal=USR1@120", "requeue", "open-mode=append", "nodes=2", "ntasks-per-node=4", "array=0-3%2"):
        assert f"#SBATCH --{line}\n" in first, line
    assert second.startswith("sbatch --dependency=aftercorr:JOB_OF_PRETRAIN ")
    assert "--nodes=1\n" in second and "--requeue" not in second
    assert third.startswith("sbatch --dependency=afterok:JOB_OF_FINETUNE ") and "--array" not in third
    assert f"mixed-seed1={here}/runs/both/finetune/mixed-seed1/export --out {here}/runs/both/probe" in third
    for script in (first, second, third):
        subprocess.run(["bash", "-n"], input=script.partition("\n")[2], text=True, check=True)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"seed": [1]}, "seed: unknown key; did you mean seeds?"),
        ({"folder": None}, "folder: field required"),
        ({"pretrain": {"config": "pre.yaml", "sbach": {}}}, "pretrain.sbach: unknown key; did you mean sbatch?"),
        ({"pretrain": {"config": "none.yaml"}}, "pretrain plain-seed0: config none.yaml: cannot be read"),
        (
            {"settings": {"a": {"objective.lamda": 0}}},
            "(?s)pretrain a-seed0: .*objective.lamda: unknown key; did you mean",
        ),
        ({"settings": {"a": {"finetune": {"task.name": "x"}}}}, "(?s)finetune a-seed0: .*no task 'x'"),
        ({"settings": {"a/b": {}}}, "settings.a/b: becomes a folder's name"),
        ({"seeds": [1, 1]}, r"seeds: \[1, 1\] names one twice"),
        ({"pretrain": None, "finetune": None}, "pretrain: no stage that trains"),
        ({"finetune": None, "probe": {"arguments": [], "of": ["finetune"]}}, "probe.of: finetune is no stage"),
        ({"probe": {"arguments": ["--dta", "x"]}}, "probe.arguments: "),
        ({"sbatch": {"array": "0-3"}}, "sbatch.array: is not free; give seeds"),
        ({"pretrain": {"config": "pre.yaml", "set": {"run.folder": "x"}}}, "pretrain.set.run.folder: is not free"),
    ],
)
def test_mistakes_are_named_before_anything_is_submitted(here: Path, changes: dict[str, Any], problem: str) -> None:
    command(here, "sbatch", "touch submitted-something; echo 1")
    with pytest.raises(DiptychError, match=problem):
        submit.main([str(write(here, **changes))])
    assert not (here / "submitted-something").exists() and not (here / "runs").exists()


def test_a_foreign_folder_is_refused(here: Path) -> None:
    (here / "runs/both/pretrain/plain-seed1").mkdir(parents=True)
    (here / "runs/both/pretrain/plain-seed1/thesis.tex").touch()
    with pytest.raises(DiptychError, match="plain-seed1: holds files that are no run"):
        submit.main([str(write(here))])


def test_if_slurm_refuses_a_job_none_is_left(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    refusal = 'case "$*" in *aftercorr*) echo "sbatch: error: no such partition" >&2; exit 1;; esac; echo 71'
    command(here, "squeue", "exit 0")
    command(here, "sbatch", refusal)
    command(here, "scancel", 'echo "$@" > cancelled')
    with pytest.raises(
        DiptychError, match=r"finetune\.sbatch: sbatch refuses it, no job was left: .*no such partition"
    ):
        submit.main([str(write(here))])
    assert (here / "cancelled").read_text() == "71\n"


def test_code_and_config_are_frozen_at_the_first_submission(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(here, "sbatch", 'env > "env-$$"; echo 7')
    command(here, "squeue", "exit 0")
    small = {"seeds": None, "settings": None, "finetune": None, "probe": None}
    os.environ["SLURM_STEP_NUM_TASKS"] = "8"  # as if submitted from within a job
    try:
        assert submit.main([str(write(here, **small))]) == 0
    finally:
        del os.environ["SLURM_STEP_NUM_TASKS"]
    assert capsys.readouterr().out == f"pretrain: job 7: {here}/runs/both/pretrain\n"
    assert "SLURM_" not in next(here.glob("env-*")).read_text()
    frozen = here / "runs/both/pretrain/frozen"
    code = frozen / "code"
    assert (code / "pretrain/demo.yaml").is_file() and (code / "launch/slurm/job.sh").is_file()
    assert not list(code.rglob("__pycache__"))
    elsewhere = {"cwd": here, "env": os.environ | {"PYTHONPATH": str(code), "PYTHONSAFEPATH": "1"}}
    found = subprocess.run(
        [sys.executable, "-c", "import pretrain; print(pretrain.__file__)"],
        capture_output=True,
        text=True,
        **elsewhere,  # type: ignore[call-overload]
    )
    assert found.stdout.strip() == str(code / "pretrain/__init__.py")

    (code / "pretrain/demo.yaml").write_text("of that time")
    assert submit.main([str(here / "pipeline.yaml")]) == 0
    assert "goes on with the code of its first submission" in capsys.readouterr().out
    assert (code / "pretrain/demo.yaml").read_text() == "of that time"
    changed = write(here, **small, pretrain={"config": "pre.yaml", "set": {"train.steps": 5}})
    with pytest.raises(DiptychError, match="was submitted with another config"):
        submit.main([str(changed)])
    assert submit.main([str(changed), "--refreeze"]) == 0
    assert yaml.safe_load((frozen / "config.yaml").read_text())["train"]["steps"] == 5
    assert (code / "pretrain/demo.yaml").read_text() != "of that time"


def test_a_pipeline_in_the_queue_is_not_submitted_again(here: Path) -> None:
    command(here, "sbatch", "echo 7")
    command(here, "squeue", "exit 0")
    pipeline = write(here)
    assert submit.main([str(pipeline)]) == 0
    command(here, "squeue", 'echo "7|0|RUNNING|None|0|"')
    with pytest.raises(DiptychError, match="runs/both: is in the queue already as job 7"):
        submit.main([str(pipeline)])


def make_run(folder: Path, *lines: dict[str, Any], **train: Any) -> Path:
    folder.mkdir(parents=True)
    (folder / "run.json").write_text("{}")
    (folder / "config.yaml").write_text(yaml.safe_dump({"train": train}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(step: int, **more: float) -> dict[str, float]:
    return {
        "step": step,
        "train/lm_loss": 2.5,
        "train/label_tokens": 100.0 * step,
        "train/epoch": step / 40,
        "speed/label_tokens_per_second": 50.0,
        **more,
    }


def test_a_run_is_running_while_a_process_holds_its_folder(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", line(10), line(20), {"step": 20, "eval/lm_loss": 1.0}, steps=50)
    (run / "checkpoints" / "step_00000010").mkdir(parents=True)
    (run / "checkpoints" / "step_00000010" / "manifest.json").touch()
    (run / "lock.json").write_text(json.dumps({"host": "n1", "pid": 1, "job": "9_1", "started": ""}))
    job = QueuedJob("9", 1, "RUNNING", "None", 0)
    assert status.run_status(run, [job]).state == "starting"
    holder = (
        "import fcntl, sys; f = open(sys.argv[1], 'a'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); input()"
    )
    arguments = [sys.executable, "-c", holder, str(run / "lock.json")]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = status.run_status(run, [job])
        process.communicate("\n")
    assert found == status.Status(run, "running", 20, 50, 2.5, 30 * 100 / 50, 10, "9_1")
    with (run / "lock.json").open("a") as file:  # to ask for the state left the lock free
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_run_that_nobody_works_on(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", line(20), epochs=2)
    found = status.run_status(run, [])
    assert (found.state, found.steps, found.seconds_left) == ("stopped", 80, None)
    (run / "traces").mkdir()
    (run / "traces" / "rank-00000.txt").touch()
    assert status.run_status(run, []).state == "failed"
    (run / "export").mkdir()
    (run / "export" / "config.json").touch()
    assert status.run_status(run, []).state == "finished"


def test_submitted_runs_are_listed_before_they_start_and_while_they_wait(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command(here, "sbatch", "echo 7")
    command(here, "squeue", "exit 0")
    assert submit.main([str(write(here, settings=None, finetune=None, probe=None))]) == 0
    capsys.readouterr()
    (here / "runs/both/pretrain/seed1/metrics.jsonl").write_text(json.dumps(line(10)) + "\n")
    command(here, "squeue", 'printf "7|0|PENDING|Priority|0|\\n7|1|PENDING|BeginTime|1|\\n"')
    assert status.main([]) == 0
    assert [row.split() for row in capsys.readouterr().out.splitlines()] == [
        ["run", "state", "step", "loss", "left", "checkpoint", "job"],
        ["runs/both/pretrain/seed0", "queued", "-", "-", "-", "-", "7_0"],
        ["runs/both/pretrain/seed1", "requeued", "10/100", "2.500", "-", "-", "7_1"],
    ]


def test_folders_without_runs_are_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match="no run here"):
        status.main([str(tmp_path)])
    with pytest.raises(DiptychError, match="nowhere: no such folder"):
        status.main(["nowhere"])
