"""A real Slurm of three nodes on this machine, each with a network of its own, for all tests of this folder."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.slurm_user import SCRIPT, Cluster
from tests.support.tiny_run import tiny_run


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """Three nodes n1, n2, n3."""
    if missing := [name for name in ("slurmctld", "slurmd", "munged", "ip", "unshare") if not _which(name)]:
        pytest.skip(f"no Slurm to test on: {', '.join(missing)} not found (as root: {SCRIPT.name} install)")
    if os.geteuid() != 0:
        pytest.skip("nodes with networks of their own need root")
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))  # short: it holds sockets
    folder.chmod(0o755)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SBATCH_"))}
    environment |= {"PATH": programs, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    cluster = Cluster(folder, environment | {"SLURM_CONF": str(folder / "etc" / "slurm.conf")})
    started = subprocess.run(
        ["bash", SCRIPT, "start", folder],
        env=environment | {"MINI_SLURM_ISOLATE": "net", "MINI_SLURM_NODES": "3"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    try:
        if started.returncode:  # a container without the right to make networks
            pytest.skip(f"Slurm does not start here: {started.stderr.strip().splitlines()[-1]}")
        yield cluster
    finally:
        subprocess.run(["bash", SCRIPT, "stop", folder], env=environment, capture_output=True, timeout=120)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config that trains in seconds."""
    return tiny_run(
        tmp_path_factory.mktemp("cluster"),
        train={"steps": 100},
        evaluation={"every": 1000, "prompts": 0},
        checkpoint={"every": 10},
        logging={"every": 1, "tensorboard": False, "ledger": True},
    )


def _which(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin{os.pathsep}/sbin")
