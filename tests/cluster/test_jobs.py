"""Single jobs on a real Slurm: training across nodes, preemption, a lost node, restarts that end."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from pretrain.training.ledger import read_ledger
from tests.cluster.slurm_user import ROOT, Cluster, losses, metrics, wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]
SBATCH = ROOT / "launch" / "slurm" / "pretrain.sbatch"


def submit(cluster: Cluster, config: Path, run: Path, *options: str, settings: Sequence[str] = ()) -> str:
    words = ("--nodes=2", "--ntasks-per-node=1", f"--output={run}.out", *options)
    return cluster.sbatch(*words, SBATCH, config, f"run.folder={run}", *settings)


@pytest.fixture(scope="module")
def undisturbed(cluster: Cluster, tiny: Path) -> Path:
    """A run on two nodes that nobody touched."""
    run = tiny.parent / "undisturbed"
    job = submit(cluster, tiny, run)
    assert cluster.ended(job) == {job: "COMPLETED 0"}, Path(f"{run}.out").read_text()
    return run


def test_a_job_trains_on_two_nodes_and_exports(cluster: Cluster, undisturbed: Path) -> None:
    screen = Path(f"{undisturbed}.out").read_text()
    assert "2 rank(s) on cpu, ZeRO-3" in screen
    assert (undisturbed / "export" / "model.safetensors").is_file()
    assert list(losses(undisturbed)) == list(range(1, 101))
    status = cluster.run("python", "-m", "launch", "status", undisturbed)
    assert status.stdout.splitlines()[1].split()[1:3] == ["finished", "100/100"], status.stdout + status.stderr


def test_a_preempted_job_is_requeued_and_ends_as_if_nothing_had_been(
    cluster: Cluster, tiny: Path, undisturbed: Path
) -> None:
    run = tiny.parent / "preempted"
    job = submit(cluster, tiny, run)
    wait_for(lambda: len(losses(run)) >= 5)
    assert cluster.run("scancel", "--signal=USR1", job).returncode == 0
    assert cluster.ended(job) == {job: "COMPLETED 1"}
    assert f"asked to stop, and saved; job {job} is requeued" in Path(f"{run}.out").read_text()
    resumed = [line["step"] for line in metrics(run) if line.get("event") == "resume"]
    assert len(resumed) == 1 and 5 <= resumed[0] < 100
    assert losses(run) == losses(undisturbed)
    weights = [folder / "export" / "model.safetensors" for folder in (run, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_a_job_near_its_time_limit_saves_and_is_requeued(cluster: Cluster, tiny: Path) -> None:
    run = tiny.parent / "time-limit"
    job = submit(cluster, tiny, run, "--time=1", "--signal=USR1@30", settings=["train.steps=1000000"])
    try:
        wait_for(lambda: cluster.run("squeue", "-h", "-j", job, "-O", "RestartCnt").stdout.strip() == "1")
    finally:
        assert cluster.run("scancel", job).returncode == 0
    assert f"asked to stop, and saved; job {job} is requeued" in Path(f"{run}.out").read_text()
    assert cluster.ended(job) == {job: "CANCELLED 1"}


def test_a_job_that_is_requeued_on_more_nodes_goes_on_with_the_next_row(
    cluster: Cluster, tiny: Path, undisturbed: Path
) -> None:
    run = tiny.parent / "more-nodes"
    job = submit(cluster, tiny, run, "--nodes=1")
    wait_for(lambda: len(losses(run)) >= 5)
    cluster.drain("n1", "n2", "n3")  # so that it waits when it is requeued
    try:
        assert cluster.run("scancel", "--signal=USR1", job).returncode == 0
        wait_for(lambda: cluster.run("squeue", "-h", "-j", job, "-o", "%T").stdout == "PENDING\n")
        changed = cluster.run("scontrol", "update", f"JobId={job}", "NumNodes=2-2", "NumTasks=2")
        assert changed.returncode == 0, changed.stderr
    finally:
        cluster.resume("n1", "n2", "n3")
    assert cluster.ended(job) == {job: "COMPLETED 1"}, Path(f"{run}.out").read_text()
    screen = Path(f"{run}.out").read_text()
    assert screen.index("1 rank(s) on cpu") < screen.index("2 rank(s) on cpu")
    assert losses(run) == pytest.approx(losses(undisturbed), rel=1e-4)
    assert read_ledger(run / "ledger") == read_ledger(undisturbed / "ledger")


def test_a_job_that_loses_a_node_goes_on_elsewhere(cluster: Cluster, tiny: Path, undisturbed: Path) -> None:
    run = tiny.parent / "node-lost"
    job = submit(cluster, tiny, run)
    wait_for(lambda: len(losses(run)) > 15)
    nodes = cluster.run("squeue", "-h", "-j", job, "-o", "%N").stdout.strip()
    lost = cluster.run("scontrol", "show", "hostnames", nodes).stdout.split()[-1]
    cluster.fail(lost)
    assert cluster.ended(job) == {job: "COMPLETED 1"}
    assert [line["event"] for line in metrics(run) if "event" in line] == ["resume"]
    assert losses(run) == losses(undisturbed)
    weights = [folder / "export" / "model.safetensors" for folder in (run, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()


@pytest.mark.parametrize(
    ("options", "ranks", "said"),
    [
        (["--nodes=2", "--ntasks=3"], 3, ""),
        (["--nodes=2", "--ntasks-per-node=2"], 4, ""),
        (
            ["--nodes=2", "--ntasks=3", "--ntasks-per-node=2"],
            0,
            "error: --ntasks=3 is no multiple of --ntasks-per-node=2",
        ),
    ],
)
def test_as_many_ranks_start_as_were_asked_for(
    cluster: Cluster, tmp_path: Path, options: list[str], ranks: int, said: str
) -> None:
    (tmp_path / "stage.py").write_text("import os; print('rank', os.environ['SLURM_PROCID'])\n")
    script = tmp_path / "stage.sbatch"
    script.write_text("#!/bin/bash\nmodule=stage\n. launch/slurm/job.sh\n")
    job = cluster.sbatch(f"--output={tmp_path}/out", *options, script, PYTHONPATH=str(tmp_path))
    assert cluster.ended(job) == {job: "COMPLETED 0" if ranks else "FAILED 0"}
    screen = (tmp_path / "out").read_text()
    assert sorted(line for line in screen.splitlines() if line.startswith("rank")) == [
        f"rank {n}" for n in range(ranks)
    ]
    assert said in screen and "Warning" not in screen


def test_a_signal_before_the_ranks_listen_and_one_to_the_batch_shell_alone(cluster: Cluster, tmp_path: Path) -> None:
    """The first start dies of the signal, as a program that does not listen yet; the second is told by the shell."""
    (tmp_path / "stage.py").write_text(
        "import os, signal, sys, time\n"
        "starts = len(open('starts').readlines()) if os.path.exists('starts') else 0\n"
        "if starts == 1: signal.signal(signal.SIGUSR1, lambda *_: sys.exit(85))\n"
        "print('start', file=open('starts', 'a'))\n"
        "time.sleep(0 if starts == 2 else 60)\n"
    )
    script = tmp_path / "stage.sbatch"
    script.write_text(f"#!/bin/bash\n#SBATCH --requeue\nmodule=stage\ncd {tmp_path}\n. {ROOT}/launch/slurm/job.sh\n")
    job = cluster.sbatch(f"--output={tmp_path}/out", "--open-mode=append", script, PYTHONPATH=str(tmp_path))

    def starts() -> int:
        return len((tmp_path / "starts").read_text().splitlines()) if (tmp_path / "starts").is_file() else 0

    wait_for(lambda: starts() == 1)
    assert cluster.run("scancel", "--signal=USR1", job).returncode == 0
    wait_for(lambda: starts() == 2)
    assert cluster.run("scancel", "--signal=USR1", "--batch", job).returncode == 0
    assert cluster.ended(job) == {job: "COMPLETED 2"}, (tmp_path / "out").read_text()
    assert (tmp_path / "out").read_text().count("asked to stop, and saved") == 2


def test_restarts_end_after_failures_in_a_row_and_a_mistake_has_none(cluster: Cluster, tmp_path: Path) -> None:
    """A stage that ends with the statuses of a list, one a start."""
    stage = tmp_path / "stage.py"
    stage.write_text(
        "import sys\n"
        "path = sys.argv[1]\n"
        "statuses = open(path).read().split()\n"
        "open(path, 'w').write(' '.join(statuses[1:]))\n"
        "sys.exit(int(statuses[0]))\n"
    )
    script = tmp_path / "stage.sbatch"
    lines = "#!/bin/bash\n#SBATCH --requeue --open-mode=append\nmodule=stage\n. launch/slurm/job.sh\n"
    script.write_text(lines)
    jobs, expected = [], {}
    for statuses, end in {"70 85 70 70 0": "FAILED 3", "1 0": "FAILED 0", "85 0": "COMPLETED 1"}.items():
        left = tmp_path / f"left-{len(jobs)}"
        left.write_text(statuses)
        output = f"--output={tmp_path}/%j.out"
        jobs.append(cluster.sbatch(output, script, left, PYTHONPATH=str(tmp_path), DIPTYCH_MAX_RESTARTS="1"))
        expected[jobs[-1]] = end
    screen = tmp_path / f"{jobs[0]}.out"
    assert cluster.ended(*jobs) == expected, screen.read_text()
    assert (tmp_path / "left-0").read_text() == "0"
    assert "ended with status 70, failure 2 in a row; no restart" in screen.read_text()
