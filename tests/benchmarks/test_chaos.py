"""The short version of `benchmarks/chaos.py`: a run under faults ends as the undisturbed one."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.ranks import REPOSITORY


@pytest.mark.ranks
@pytest.mark.timeout(900)
def test_faults_leave_no_trace_in_rows_and_weights(tmp_path: Path) -> None:
    out = tmp_path / "chaos.json"
    words = ["benchmarks/chaos.py", "--faults", "8", "--seed", "3", "--steps", "32", "--out"]
    command = [sys.executable, *words, str(out)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    result = json.loads(out.read_text())
    assert result["faults"] >= 8 and result["problems"] == 0
    assert result["campaigns"]["2 ranks"]["largest_difference_of_weights"] == 0
