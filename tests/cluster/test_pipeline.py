"""A pipeline of dependent jobs on a real Slurm, with an array of seeds and a preemption in the middle."""

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

from finetune.demo_data import write_reviews
from tests.cluster.slurm_user import Cluster, losses, metrics, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def test_stages_wait_for_each_other_through_a_preemption_and_run_what_was_frozen(cluster: Cluster, tiny: Path) -> None:
    folder = tiny.parent / "pipeline"
    reviews, pretraining, tuning = folder / "train.jsonl", folder / "pretrain.yaml", folder / "finetune.yaml"
    write_reviews(reviews, 120, 1)
    tree = yaml.safe_load(tiny.read_text())
    tree["train"]["steps"] = 50
    pretraining.write_text(yaml.safe_dump(tree))
    task = {
        "task": {"name": "sentiment", "settings": {"max_new_tokens": 4}},
        "data": {"folder": tree["data"]["folder"], "train": str(reviews)},
        "model": {"path": "hub/name"},
        "objective": {"lambda": 0},
        "train": {"steps": 3, "rows_per_step": 4, "micro_batch_rows": 2},
        "evaluation": {"prompts": 1, "new_tokens": 4, "max_records": 8},
    }
    tuning.write_text(yaml.safe_dump(task))
    probe = ["--data", "reviews", "--reviews-count", "200", "--seeds", "1", "--sizes", "--random-seeds", "0"]
    pipeline = folder / "pipeline.yaml"
    runs = folder / "runs"
    described = {
        "folder": str(runs),
        "sbatch": {"ntasks-per-node": 1},
        "environment": {"OMP_NUM_THREADS": "1"},
        "seeds": [0, 1],
        "pretrain": {"config": str(pretraining), "sbatch": {"nodes": 2}},
        "finetune": {"config": str(tuning)},
        "probe": {"arguments": probe},
    }
    pipeline.write_text(yaml.safe_dump(described))
    done = cluster.run("python", "-m", "launch", "submit", pipeline)
    assert done.returncode == 0, done.stderr
    first, second, third = (line.split("job ")[1].split(",")[0].split(":")[0] for line in done.stdout.splitlines())

    # One of the first two runs is preempted; what waits for it goes on waiting.
    wait_for(lambda: losses(runs / "pretrain" / "seed0"))
    assert cluster.run("scancel", "--signal=USR1", f"{first}_0").returncode == 0

    # What is in the repository and in the configs no longer matters ...
    for path in (pretraining, tuning):
        path.write_text("no: config\n")
    # ... and what is in the run folder does.
    mark = runs / "finetune" / "seed1" / "frozen" / "code" / "finetune" / "training.py"
    mark.write_text(mark.read_text() + "\nprint('the frozen code runs', flush=True)\n")

    status = cluster.run("python", "-m", "launch", "status", runs)
    listed = [Path(row.split()[0]).relative_to(runs) for row in status.stdout.splitlines()[1:]]
    assert listed == [Path(stage) / seed for stage in ("finetune", "pretrain") for seed in ("seed0", "seed1")]

    assert cluster.ended(first, second, third, seconds=800) == {
        f"{first}_0": "COMPLETED 1",
        f"{first}_1": "COMPLETED 0",
        f"{second}_0": "COMPLETED 0",
        f"{second}_1": "COMPLETED 0",
        third: "COMPLETED 0",
    }
    for seed in (0, 1):
        assert len(losses(runs / "pretrain" / f"seed{seed}")) == 50
        assert (runs / "finetune" / f"seed{seed}" / "export" / "model.safetensors").is_file()
        assert yaml.safe_load((runs / "pretrain" / f"seed{seed}" / "config.yaml").read_text())["run"]["seed"] == seed
    assert losses(runs / "pretrain" / "seed0") != losses(runs / "pretrain" / "seed1")
    assert "the frozen code runs" in (runs / "submitted" / f"finetune-{second}_1.out").read_text()
    report = (runs / "probe" / "report.md").read_text()
    assert "seed0" in report and "seed1" in report


def test_one_task_of_an_array_is_requeued_alone_and_counts_its_own_failures(cluster: Cluster, tiny: Path) -> None:
    """The last task is the one whose SLURM_JOB_ID is the number of the whole array."""
    folder = tiny.parent / "array"
    folder.mkdir()
    tree = yaml.safe_load(tiny.read_text())
    tree["train"]["steps"] = 400
    (folder / "pretrain.yaml").write_text(yaml.safe_dump(tree))
    runs = [folder / "runs" / "pretrain" / f"seed{seed}" for seed in range(3)]
    described = {
        "folder": str(folder / "runs"),
        "sbatch": {"nodes": 1, "ntasks-per-node": 1, "comment": "the owner's words"},
        "seeds": [0, 1, 2],
        "at_once": 2,  # so that the others are done when the last one is stopped
        "pretrain": {"config": str(folder / "pretrain.yaml")},
    }
    (folder / "pipeline.yaml").write_text(yaml.safe_dump(described))
    done = cluster.run("python", "-m", "launch", "submit", folder / "pipeline.yaml")
    assert done.returncode == 0, done.stderr
    job = done.stdout.split("job ")[1].split(":")[0]

    def resumptions(run: Path) -> int:
        return sum(line.get("event") == "resume" for line in metrics(run))

    wait_for(lambda: all((run / "export").is_dir() for run in runs[:2]) and losses(runs[2]))
    assert cluster.run("scancel", "--signal=USR1", f"{job}_2").returncode == 0
    wait_for(lambda: resumptions(runs[2]) == 1)
    status = cluster.run("python", "-m", "launch", "status", runs[2])
    assert status.stdout.split()[-1] == f"{job}_2", status.stdout
    os.kill(json.loads((runs[2] / "lock.json").read_text())["pid"], signal.SIGKILL)
    assert cluster.ended(job) == {f"{job}_0": "COMPLETED 0", f"{job}_1": "COMPLETED 0", f"{job}_2": "COMPLETED 2"}
    assert [resumptions(run) for run in runs] == [0, 0, 2]
    assert all(list(losses(run)) == list(range(1, 401)) for run in runs)
    comments = cluster.run("squeue", "--array", "-h", "-t", "all", "-j", job, "-o", "%K %k").stdout.splitlines()
    assert sorted(comments) == ["0 the owner's words", "1 the owner's words", "2 the owner's words [failures=1]"]
    screens = [(folder / "runs" / "submitted" / f"pretrain-{job}_{task}.out").read_text() for task in range(3)]
    assert [screen.count("is requeued") for screen in screens] == [0, 0, 2]
