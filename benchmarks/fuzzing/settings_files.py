"""Configs, overrides and pipeline files."""

import random
from pathlib import Path
from typing import Any

from benchmarks.fuzzing.reader import Read, Reader
from finetune.config import FinetuneConfig
from launch.pipeline import read_pipeline
from pretrain.config.loading import load_config
from pretrain.config.sections import Config

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
OVERRIDES = b"""data.sources=[{type: jsonl, path: a, keep: {x: 1.10}}]
model.fields.hidden_size=64
optimizer.betas=[0.9, 0.95]"""


def readers() -> dict[str, Reader]:
    """The readers of settings."""
    return {
        "config": Reader(shipped("."), config(Config), "text", lists=True),
        "fine-tuning config": Reader(shipped("finetune"), config(FinetuneConfig), "text", lists=True),
        "overrides": Reader([OVERRIDES], overrides, "text", lists=True),
        "pipeline": Reader(shipped("slurm"), pipeline, "text", lists=True),
    }


def shipped(folder: str) -> list[bytes]:
    """The configs of the repository."""
    return [path.read_bytes() for path in sorted((CONFIGS / folder).glob("*.yaml"))]


def config(kind: Any) -> Read:
    """Loads a config."""

    def read(folder: Path, content: bytes, draw: random.Random) -> None:
        (folder / "c.yaml").write_bytes(content)
        load_config(folder / "c.yaml", [], kind)

    return read


def overrides(folder: Path, content: bytes, draw: random.Random) -> None:
    """Loads the default config with overrides, as a command line gives them."""
    load_config(None, content.decode(errors="surrogateescape").replace("\0", "").split("\n")[:3])


def pipeline(folder: Path, content: bytes, draw: random.Random) -> None:
    """Reads a pipeline file."""
    (folder / "p.yaml").write_bytes(content)
    read_pipeline(folder / "p.yaml")
