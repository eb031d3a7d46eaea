"""Every command listens to signals before it imports what takes long."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
COMMANDS = sorted(
    str(path.relative_to(ROOT))
    for folder in ("pretrain", "finetune", "probes", "launch")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".sh") and "(run_command(main" in path.read_text(encoding="utf-8")
)

# Ends where the command first sets a handler, and prints what was imported until then.
PROGRAM = """
import contextlib, pkgutil, runpy, signal, sys
before = set(sys.modules)
def listen(*arguments):
    print(*sorted(set(sys.modules) - before))
    sys.exit()
signal.signal = listen
runpy.run_path(sys.argv[1], run_name="__main__")
"""

QUICK = {"pretrain", "pretrain.runtime", "pretrain.runtime.command", "pretrain.runtime.preemption"}
QUICK |= {"finetune", "probes", "launch"}  # these hold nothing, but for their __main__
QUICK |= {f"{package}.__main__" for package in ("pretrain", "finetune", "probes")}


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_slow_is_imported_before_signals_are_listened_to(command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, command], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    assert "pretrain.runtime.preemption" in done.stdout, done.stderr
    assert set(done.stdout.split()) - QUICK == set()


def test_every_command_is_tried() -> None:
    assert len(COMMANDS) >= 12, COMMANDS
