"""Other ways to start ranks on a real Slurm, and mistakes that must not pass silently."""

from pathlib import Path

import pytest
from slurm_user import ROOT, Cluster, losses

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(900)]


def test_a_wrong_master_address_fails_loudly_and_soon(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    words = ("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out")
    sbatch = (*words, ROOT / "launch" / "slurm" / "pretrain.sbatch", tiny, f"run.folder={tmp_path}/run")
    jobs = {
        address: cluster.sbatch(*sbatch, MASTER_ADDR=address, DIPTYCH_RENDEZVOUS_SECONDS="5")
        for address in ("no-such-host", "localhost")
    }
    assert set(cluster.ended(*jobs.values()).values()) == {"FAILED 0"}
    screens = {address: (tmp_path / f"{job}.out").read_text() for address, job in jobs.items()}
    assert "error: MASTER_ADDR no-such-host, MASTER_PORT 2" in screens["no-such-host"]
    assert "error: MASTER_ADDR: localhost is every node itself" in screens["localhost"]
    assert not (tmp_path / "run").exists()


def test_deepspeeds_slurm_launcher_trains_on_two_nodes(cluster: Cluster, tiny: Path, tmp_path: Path) -> None:
    hosts = tmp_path / "hosts"
    hosts.write_text("n1 slots=1\nn3 slots=1\n")
    command = (
        f"bash launch/pretrain.sh --hostfile {hosts} --launcher slurm --no_ssh_check --master_addr unused "
        f"{tiny} run.folder={tmp_path}/run train.steps=2"
    )
    words = ("--nodes=2", "--ntasks-per-node=1", f"--output={tmp_path}/%j.out", "--wrap", command)
    job = cluster.sbatch(*words)
    assert cluster.ended(job) == {job: "COMPLETED 0"}, (tmp_path / f"{job}.out").read_text()
    assert "2 rank(s) on cpu" in (tmp_path / f"{job}.out").read_text()
    assert len(losses(tmp_path / "run")) == 2


@pytest.mark.parametrize("option", ["--hostfile", "--hostfile=", "-H"])
def test_a_missing_hostfile_is_no_run_on_this_node_alone(
    cluster: Cluster, tiny: Path, tmp_path: Path, option: str
) -> None:
    hostfile = [f"{option}{tmp_path}/hosts"] if option.endswith("=") else [option, f"{tmp_path}/hosts"]
    done = cluster.run("bash", "launch/pretrain.sh", *hostfile, tiny, f"run.folder={tmp_path}/run")
    assert done.returncode == 1
    assert f"{tmp_path}/hosts: no such file" in done.stderr


def test_python_in_a_jobs_script_is_one_process_that_waits_for_nobody(
    cluster: Cluster, tiny: Path, tmp_path: Path
) -> None:
    command = f"python -m pretrain {tiny} --dry-run"
    job = cluster.sbatch("--nodes=2", "--ntasks-per-node=2", f"--output={tmp_path}/%j.out", "--wrap", command)
    assert cluster.ended(job) == {job: "COMPLETED 0"}
    assert "note: Slurm gave this job 4 tasks, but this is one process alone" in (tmp_path / f"{job}.out").read_text()
