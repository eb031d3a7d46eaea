"""What all tests share: no network, DeepSpeed on the CPU, and the real data where there is any."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest

from pretrain.runtime.preemption import SIGNALS, preemption

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora and golden values: $DIPTYCH_SHARED, or shared/ beside the repository."""
    folder = Path(os.environ.get("DIPTYCH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real corpora: {folder} does not exist (set DIPTYCH_SHARED)")
    return folder


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Ends what a command that a test calls in this process leaves: it listens to signals until its process ends.

    Once its outcome is known, a signal ends the process with that status: here it would end all tests, as a success.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    preemption.received = preemption._listener = preemption._outcome = None
    for number, handler in before.items():
        signal.signal(number, handler)
