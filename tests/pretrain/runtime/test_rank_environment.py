"""Ranks and the meeting point, read from what launchers leave in the environment."""

import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.rank_environment import (
    device_index,
    first_host,
    missing_hostfile,
    rank_environment,
    unused_tasks,
)

# What Slurm 22.05 sets in the script of `sbatch -N2 --ntasks-per-node=2`, as far as it matters here ...
BATCH = {
    "SLURM_JOB_ID": "41",
    "SLURM_JOB_NODELIST": "n[1-2]",
    "SLURM_NNODES": "2",
    "SLURM_NTASKS": "4",
    "SLURM_TASKS_PER_NODE": "2(x2)",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
}
# ... and in the third task of an srun in it.
STEP = BATCH | {
    "SLURM_PROCID": "2",
    "SLURM_NODEID": "1",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NODELIST": "n[1-2]",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2)",
}
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}


def test_a_task_of_srun_knows_its_rank_and_the_first_node() -> None:
    assert rank_environment(STEP) == {
        "RANK": "2",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "4",
        "LOCAL_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": str(20_000 + 41 * 8),
    }
    assert unused_tasks(STEP) is None


def test_nodes_may_hold_different_numbers_of_tasks() -> None:
    environ = STEP | {"SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "3(x2),1", "SLURM_NODEID": "2"}
    assert rank_environment(environ)["LOCAL_SIZE"] == "1"
    assert rank_environment(environ | {"SLURM_NODEID": "1"})["LOCAL_SIZE"] == "3"


def test_on_one_node_no_name_needs_to_resolve() -> None:
    environ = STEP | {"SLURM_STEP_NODELIST": "n1", "SLURM_STEP_TASKS_PER_NODE": "4", "SLURM_NODEID": "0"}
    found = rank_environment(environ)
    assert (found["MASTER_ADDR"], found["LOCAL_SIZE"]) == ("127.0.0.1", "4")


def test_a_meeting_point_that_the_job_exports_wins() -> None:
    found = rank_environment(STEP | {"MASTER_ADDR": "ib-n1", "MASTER_PORT": "1234"})
    assert (found["MASTER_ADDR"], found["MASTER_PORT"]) == ("ib-n1", "1234")


@pytest.mark.parametrize("environ", [{}, BATCH, STEP | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}])
def test_without_other_processes_there_is_nobody_to_wait_for(environ: dict[str, str]) -> None:
    found = rank_environment(environ | {"SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "0"})
    assert found == ALONE | {"MASTER_ADDR": "127.0.0.1"}


def test_python_in_a_jobs_script_says_that_tasks_are_left_over() -> None:
    note = unused_tasks(BATCH)
    assert note is not None and "4 tasks" in note and "srun" in note
    assert unused_tasks({}) is None
    assert unused_tasks(BATCH | {"RANK": "0"}) is None


def test_what_torchrun_and_deepspeed_say_comes_before_what_slurm_says() -> None:
    launched = {
        "RANK": "5",
        "LOCAL_RANK": "1",
        "WORLD_SIZE": "8",
        "LOCAL_SIZE": "4",
        "MASTER_ADDR": "m1",
        "MASTER_PORT": "29500",
    }
    assert rank_environment(STEP | launched) == launched | {"LOCAL_WORLD_SIZE": "4"}


@pytest.mark.parametrize(
    ("environ", "place"),
    [
        ({"WORLD_SIZE": "8"}, "WORLD_SIZE: is 8, but RANK"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "LOCAL_RANK: is not set"),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, "MASTER_ADDR: is not set"),
        ({"RANK": "2", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}, "RANK: is 2, but WORLD_SIZE is 2"),
        ({"RANK": "one"}, "RANK: 'one' is no whole number"),
        ({"RANK": "9" * 5000}, f"RANK: '{'9' * 40}' is no whole number"),
        (STEP | {"MASTER_ADDR": "localhost"}, "MASTER_ADDR: localhost is every node itself"),
        (STEP | {"MASTER_ADDR": "127.0.0.1"}, "MASTER_ADDR: 127.0.0.1 is every node itself"),
        (STEP | {"SLURM_STEP_NODELIST": "", "SLURM_JOB_NODELIST": ""}, "SLURM_STEP_NODELIST: is not set"),
    ],
)
def test_contradictions_are_named(environ: dict[str, str], place: str) -> None:
    with pytest.raises(DiptychError, match=place):
        rank_environment(environ)


@pytest.mark.parametrize(
    ("nodes", "host"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu-a[003,007-009],gpu-b1", "gpu-a003"),
        ("login-1,n[1-2]", "login-1"),
        ("rack[2-3]n[01-16]", "rack2n01"),
    ],
)
def test_the_first_host_of_a_node_list(nodes: str, host: str) -> None:
    assert first_host(nodes) == host
    if shutil.which("scontrol"):
        shown = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, timeout=30)
        if shown.returncode == 0:  # it wants a slurm.conf
            assert shown.stdout.split()[0] == host


@given(st.integers(1, 10**7), st.integers(1, 1000), st.integers(0, 7))
def test_neighbouring_jobs_never_share_a_port(job: int, distance: int, step: int) -> None:
    def port(number: int, step: int) -> int:
        return int(rank_environment(STEP | {"SLURM_JOB_ID": str(number), "SLURM_STEP_ID": str(step)})["MASTER_PORT"])

    assert port(job, step) != port(job + distance, 0)
    assert port(job, 0) != port(job, 1)
    assert 20_000 <= port(job, step) < 32_000


def test_a_restarted_job_meets_at_another_port() -> None:
    again = rank_environment(STEP | {"SLURM_RESTART_COUNT": "1"})
    assert again["MASTER_PORT"] != rank_environment(STEP)["MASTER_PORT"]


def test_a_task_that_sees_its_own_device_alone_takes_it() -> None:
    assert device_index({"LOCAL_RANK": "3"}, 8) == 3
    assert device_index(STEP | {"LOCAL_RANK": "3"}, 1) == 0
    with pytest.raises(DiptychError, match="LOCAL_RANK: 2, but this node shows 2 devices"):
        device_index(STEP | {"LOCAL_RANK": "2"}, 2)
    with pytest.raises(DiptychError, match="LOCAL_RANK: 1, but this node shows 1 devices"):
        device_index({"LOCAL_RANK": "1"}, 1)


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("python /venv/bin/deepspeed --hostfile {folder}/none launch/pretrain.sh", True),
        ("/venv/bin/deepspeed -H {folder}/none launch/pretrain.sh", True),
        ("python /venv/bin/deepspeed --hostfile={folder}/none train.py", True),
        ("python /venv/bin/deepspeed --hostfile={folder} train.py", True),
        ("python /venv/bin/deepspeed --hostfile {folder}/hosts launch/pretrain.sh", False),
        ("python /venv/bin/deepspeed --num_gpus 2 launch/pretrain.sh --hostfile {folder}/none", False),
        ("python -u -m deepspeed.launcher.launch --hostfile {folder}/none", False),
        ("ansible-playbook --hostfile {folder}/none", False),
        ("", False),
    ],
)
def test_a_hostfile_that_the_launcher_did_not_find_is_noticed(tmp_path: Path, command: str, missing: bool) -> None:
    (tmp_path / "hosts").write_text("n1 slots=1\n")
    commands = [["bash"], command.format(folder=tmp_path).split()]
    assert (missing_hostfile(commands) is not None) == missing
