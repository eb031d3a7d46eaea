"""What all tests share: no network, DeepSpeed on the CPU, one thread, and the real data where there is any."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tensors are small, and several tests run at a time

import pytest

from pretrain.runtime.preemption import SIGNALS, preemption

ROOT = Path(__file__).resolve().parents[1]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes run tests, long files come first."""
    if not hasattr(config, "workerinput"):
        return
    cluster = {item.path for item in items if item.get_closest_marker("cluster")}
    ranks = {item.path for item in items if item.get_closest_marker("ranks")}
    items.sort(key=lambda item: (item.path not in cluster, item.path not in ranks))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file is run by one process, and the cluster's files by the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "cluster" if nodeid.startswith("tests/cluster/") else super()._split_scope(nodeid)

    return ByFile(config, log)


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
