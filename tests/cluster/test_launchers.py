"""Other ways to start ranks on a real Slurm, and mistakes that must not pass silently."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_user import ROOT, Cluster, losses

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]


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


@pytest.fixture
def reached_by_ssh(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """Nodes n1 and n3 with an sshd each: the hostfile that names them, and a PATH whose ssh knows the key."""
    if missing := [name for name in ("/usr/sbin/sshd", "ssh", "pdsh") if shutil.which(name) is None]:
        pytest.skip(f"no ssh to test with: {', '.join(missing)} not found (apt-get install openssh-server pdsh)")
    net = (cluster.folder / "run" / "net").read_text().strip()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / name], check=True)
    (tmp_path / "sshd").write_text(
        f"HostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/user.pub\nPidFile none\nStrictModes no\n"
        "PasswordAuthentication no\nPermitRootLogin yes\n"
    )
    client = f"-i {tmp_path}/user -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} {client} "$@"\n')
    program.chmod(0o755)
    hosts = tmp_path / "hosts"
    hosts.write_text("".join(f"10.213.{net}.{node} slots=1\n" for node in (1, 3)))
    Path("/run/sshd").mkdir(exist_ok=True)  # sshd insists on it, and only its service makes it
    command = ["/usr/sbin/sshd", "-D", "-f", tmp_path / "sshd"]
    daemons = [subprocess.Popen(["ip", "netns", "exec", f"ms{net}-n{node}", *command]) for node in (1, 3)]
    try:
        yield hosts, f"{program.parent}{os.pathsep}{cluster.environment['PATH']}"
    finally:
        for daemon in daemons:
            daemon.terminate()
            daemon.wait(30)


def test_deepspeeds_hostfile_starts_ranks_by_ssh(
    cluster: Cluster, tiny: Path, tmp_path: Path, reached_by_ssh: tuple[Path, str]
) -> None:
    hosts, path = reached_by_ssh
    words = ("launch/pretrain.sh", tiny, f"run.folder={tmp_path}/run", "train.steps=2")
    done = cluster.run("deepspeed", "--hostfile", hosts, *words, PATH=path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rank(s) on cpu" in done.stdout + done.stderr
    assert len(losses(tmp_path / "run")) == 2
    wrong = cluster.run("deepspeed", "--hostfile", hosts, *words, "train.stepz=2", PATH=path)
    assert wrong.returncode != 0 and "did you mean train.steps?" in wrong.stdout + wrong.stderr


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
