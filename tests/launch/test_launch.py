"""Starting a run as users type it: the deepspeed launcher, the shell, plain Python; and what the screen shows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from tests.support.tiny_run import tiny_run

ROOT = Path(__file__).parents[2]
SCRIPT = "launch/pretrain.sh"

pytestmark = [pytest.mark.ranks, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("launch"), evaluation={"prompts": 1, "new_tokens": 4})


def environment(**more: str) -> dict[str, str]:
    """With the programs of the environment that runs the tests, whatever it is called."""
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return os.environ | {"PATH": programs, "HF_HUB_OFFLINE": "1", "DS_ACCELERATOR": "cpu"} | more


def start(*command: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, env=environment(**more), capture_output=True, text=True, timeout=500)


def run_lines(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def by_launcher(config: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = config.parent / "by-launcher"
    options = ("--num_gpus", "2", "--master_port", "29711")
    return folder, start("deepspeed", *options, SCRIPT, str(config), f"run.folder={folder}", "logging.every=1")


def test_the_deepspeed_launcher_takes_the_script_with_options_config_and_overrides(
    by_launcher: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    folder, done = by_launcher
    assert done.returncode == 0, done.stdout + done.stderr
    assert "2 rank(s) on cpu, ZeRO-3" in done.stderr
    assert (folder / "export" / "model.safetensors").is_file()
    assert run_lines(folder)[-1]["step"] == 2


def test_the_shell_starts_the_same_run(
    config: Path, by_launcher: tuple[Path, subprocess.CompletedProcess[str]]
) -> None:
    folder = config.parent / "by-shell"
    options = ("--num_gpus", "2", "--master_port=29712")
    done = start("bash", SCRIPT, *options, str(config), f"run.folder={folder}", "logging.every=1")
    assert done.returncode == 0, done.stdout + done.stderr
    losses, expected = (
        [line["train/lm_loss"] for line in run_lines(run) if "train/lm_loss" in line]
        for run in (folder, by_launcher[0])
    )
    assert losses == expected and len(losses) == 2


def test_a_mistake_ends_all_ranks_with_one_line(config: Path) -> None:
    done = start(
        "deepspeed", "--num_gpus", "2", "--master_port", "29713", SCRIPT, str(config), "train.stepz=3", "data.views=[a]"
    )
    screen = done.stdout + done.stderr
    assert done.returncode != 0
    assert screen.count("error: ") == 1 and "train.stepz: unknown key; did you mean train.steps?" in screen
    assert "Traceback" not in screen


def test_without_a_config_the_embedded_default_runs_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    settings = ("data.sources.0.count=400", "tokenizer.vocab_size=700", f"run.folder={tmp_path / 'run'}")
    done = start(
        "bash",
        SCRIPT,
        "--master_port=29714",
        "--dry-run",
        *settings,
        f"data.folder={tmp_path / 'data'}",
        "train.rows_per_step=4",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("parameters", "tokens per step", "steps", "FLOPs", "memory per rank", "mock step: loss"):
        assert figure in done.stdout, figure
    assert "distance: infonce" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_help_lists_settings_without_starting_anything() -> None:
    done = start("bash", SCRIPT, "--help")
    assert done.returncode == 0 and "objective.lambda = " in done.stdout and "[launch.py" not in done.stdout


def test_no_compiler_is_needed_on_the_cpu_and_where_one_is_the_error_says_so(config: Path, tmp_path: Path) -> None:
    command = (sys.executable, "-m", "pretrain", str(config), f"run.folder={tmp_path / 'run'}")
    empty = tmp_path / "no-programs"
    empty.mkdir()
    muon = start(*command, "optimizer.name=muon", "optimizer.clip=0", PATH=str(empty))
    assert muon.returncode == 1 and "Traceback" not in muon.stderr
    assert "error: optimizer.name: muon compiles its kernels and found no C++ compiler" in muon.stderr
    plain = start(*command, PATH=str(empty))
    assert plain.returncode == 0, plain.stderr


def shell_process(folder: Path, launcher: str, words: Sequence[str]) -> subprocess.Popen[str]:
    """Starts ``launch/probe.sh`` with a shell script in place of the deepspeed launcher and its rank 0."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    fake = folder / "bin" / "deepspeed"
    fake.parent.mkdir()
    fake.write_text(f'#!/bin/sh\nend() {{ echo $1 > "$DIPTYCH_STATUS_FILE"; exit $1; }}\n{launcher}\n')
    fake.chmod(0o755)
    return subprocess.Popen(
        ["bash", str(folder / "launch" / "probe.sh"), *words],
        cwd=folder,
        env=os.environ | {"PATH": f"{fake.parent}{os.pathsep}{os.environ['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Where the tests run under nohup, a shell could not listen to HUP.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )


def shell_start(folder: Path, launcher: str, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    with shell_process(folder, launcher, words) as shell:
        stdout, stderr = shell.communicate(timeout=60)
    return subprocess.CompletedProcess(shell.args, shell.returncode, stdout, stderr)


@pytest.mark.parametrize(
    ("words", "options"),
    [
        ("--num_gpus 2 runs/a runs/b --data mood", 2),
        ("--hostfile hosts/all --num_gpus=2 one=runs/a --data mood", 3),
        ("--force_multi runs/a --data mood", 1),
        ("--quiet --num_gpus 2 runs/a --data mood", 3),
        ("runs/a --data mood --num_gpus 2", 0),
    ],
)
def test_the_shell_tells_the_launchers_options_from_the_stages_arguments(
    tmp_path: Path, words: str, options: int
) -> None:
    (tmp_path / "hosts").mkdir()
    (tmp_path / "hosts" / "all").write_text("node1 slots=2\n")
    found = shell_start(tmp_path, 'echo "$@"', words.split())
    given = [word for word in found.stdout.split() if not word.startswith("--master_port=")]
    assert "--master_port=" in found.stdout
    assert given.index(f"{tmp_path}/launch/probe.sh") == options and len(given) == len(words.split()) + 1


@pytest.mark.parametrize(
    ("statuses", "limit", "ends", "starts"),
    [
        ("70 86 85 0", "3", 0, 4),  # a lost rank, no progress, a preemption, then the end
        ("70 70 70 0", "2", 70, 3),  # no more than asked for
        ("1 0", "3", 1, 1),  # a user's mistake comes again
        ("130 0", "3", 130, 1),  # what a user stopped stays stopped
        ("hidden 0", "3", 0, 2),  # the launcher ends with 0, and no rank has said that it finished
    ],
)
def test_a_failed_run_is_started_again_a_bounded_number_of_times(
    tmp_path: Path, statuses: str, limit: str, ends: int, starts: int
) -> None:
    found = shell_start(
        tmp_path,
        f'echo "$@" >> {tmp_path}/starts\nset -- {statuses}\nshift $(($(wc -l < {tmp_path}/starts) - 1))\n'
        "[ $1 != hidden ] || exit 0\nend $1",
        ["--max_restarts", limit, "runs/a", "--data", "mood"],
    )
    lines = (tmp_path / "starts").read_text().splitlines()
    assert (found.returncode, len(lines)) == (ends, starts), found.stderr
    assert all(line.endswith("probe.sh runs/a --data mood") for line in lines)
    assert found.stderr.count("note: exit status") == starts - 1
    assert (f"error: exit status {ends} after {limit} restarts" in found.stderr) == (
        starts == int(limit) + 1 and ends > 0
    )


def test_the_launchers_signal_to_a_rank_whose_mistake_rank_0_tells_adds_nothing() -> None:
    program = (
        "import time; sleep = time.sleep; time.sleep = lambda seconds: (print('waits', flush=True), sleep(seconds))\n"
        "from pretrain.runtime.command import exit_rank, run_command\n"
        "from pretrain.runtime.errors import DiptychError\n"
        "def main(argv):\n    raise DiptychError('a setting')\n"
        "exit_rank(run_command(main))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    environment = os.environ | {"RANK": "1"}
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, env=environment, **pipes) as rank:  # type: ignore[call-overload]
        assert rank.stdout.readline() == "waits\n"
        rank.terminate()
        assert rank.communicate(timeout=15) == ("", "") and rank.returncode == 1


@pytest.mark.parametrize("limit", ["", "-1", "two"])
def test_a_number_of_restarts_that_is_none_is_refused(tmp_path: Path, limit: str) -> None:
    found = shell_start(tmp_path, "exit 0", [f"--max_restarts={limit}", "runs/a"])
    assert (found.returncode, found.stderr) == (1, "error: --max_restarts needs a number\n")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_stopping_the_shell_stops_the_run_for_good(tmp_path: Path, number: int) -> None:
    log = tmp_path / "log"
    launcher = f'trap "echo stopped >> {log}; end 85" USR1\necho started >> {log}\nwhile :; do sleep 0.1; done'
    with shell_process(tmp_path, launcher, ["--max_restarts", "3", "runs/a"]) as shell:
        while not log.exists():
            time.sleep(0.1)
        shell.send_signal(number)
        assert shell.wait(30) == 85
    assert log.read_text() == "started\nstopped\n"


def test_stopping_the_shell_before_a_rank_listens_ends_with_the_same_status(tmp_path: Path) -> None:
    launcher = f"echo started >> {tmp_path}/log\nsleep 60"
    with shell_process(tmp_path, launcher, ["--max_restarts", "3", "runs/a"]) as shell:
        while not (tmp_path / "log").exists():
            time.sleep(0.1)
        shell.terminate()
        assert shell.wait(30) == 85
    assert (tmp_path / "log").read_text() == "started\n"


ENTRIES = ["-m pretrain", "-m pretrain.prepare", "-m finetune", "-m finetune.evaluate", "-m probes"]


@pytest.mark.parametrize("entry", [*ENTRIES, *(f"launch/{name}.sh" for name in ("pretrain", "finetune", "probe"))])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_a_program_imports_what_takes_long_asks_it_to_stop(
    tmp_path: Path, entry: str, number: int
) -> None:
    for name in ("torch", "numpy"):  # whichever comes first
        (tmp_path / f"{name}.py").write_text(f"import os, time\nos.kill(os.getpid(), {number})\ntime.sleep(60)\n")
    done = start(sys.executable, *entry.split(), PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (85, "")
    assert f"stopped by {signal.Signals(number).name}" in done.stderr and len(done.stderr.splitlines()) == 1


def test_a_hostfile_that_is_not_there_is_no_run_on_this_machine_alone(config: Path, tmp_path: Path) -> None:
    command = ("deepspeed", "--hostfile", str(tmp_path / "hosts"), SCRIPT, str(config), f"run.folder={tmp_path}/run")
    done = start(*command)
    assert done.returncode == 1 and f"error: --hostfile {tmp_path}/hosts: no such file" in done.stderr
    assert not (tmp_path / "run").exists()


def test_ending_the_shell_stops_all_ranks_with_a_checkpoint(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    words = ("--num_gpus", "2", str(config), f"run.folder={run}", "train.steps=5000", "logging.every=1")
    with subprocess.Popen(["bash", SCRIPT, *words], cwd=ROOT, env=environment(), stderr=subprocess.PIPE) as shell:
        deadline = time.monotonic() + 300
        while not (run / "metrics.jsonl").exists() or len(run_lines(run)) < 3:
            assert shell.poll() is None, shell.communicate()[1].decode()[-2000:]
            assert time.monotonic() < deadline
            time.sleep(0.2)
        shell.terminate()
        said = shell.communicate(timeout=100)[1].decode()
    assert shell.returncode == 85 and "asked to stop: step " in said, said[-2000:]
    assert any((run / "checkpoints").glob("step_*/manifest.json"))
    left = [process.cmdline() for process in psutil.process_iter() if str(run) in " ".join(process.cmdline())]
    assert left == []
