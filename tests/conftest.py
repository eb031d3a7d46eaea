"""What all tests share: no network, DeepSpeed on the CPU, one thread, and the real data where there is any."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are small, and several tests run at a time

import pytest

from pretrain.runtime.preemption import SIGNALS, preemption

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests: a file is run by one of them, the cluster's files by one; long files first."""
    if not hasattr(config, "workerinput"):
        return
    cluster = {item.path: item.get_closest_marker("cluster") is not None for item in items}
    ranks = {item.path for item in items if item.get_closest_marker("ranks")}
    items.sort(key=lambda item: (not cluster[item.path], item.path not in ranks))
    for item in items:
        name = "cluster" if cluster[item.path] else str(item.path.relative_to(ROOT))
        item.add_marker(pytest.mark.xdist_group(name))


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
