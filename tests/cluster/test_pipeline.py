"""A pipeline of dependent jobs on a real Slurm, with an array of seeds and a preemption in the middle."""

from pathlib import Path

import pytest
import yaml
from slurm_user import Cluster, losses, wait_for

from finetune.demo_data import write_reviews

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(1800)]


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
