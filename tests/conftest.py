"""What all tests share: no network, DeepSpeed on the CPU, and the real data where there is any."""

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("DS_ACCELERATOR", "cpu")

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora and golden values: $DIPTYCH_SHARED, or shared/ beside the repository."""
    folder = Path(os.environ.get("DIPTYCH_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no real corpora: {folder} does not exist (set DIPTYCH_SHARED)")
    return folder
