"""The config of a run that trains in seconds."""

from pathlib import Path
from typing import Any

import yaml


def tiny_run(folder: Path, **sections: dict[str, Any]) -> Path:
    """Writes it to a folder, where its run and its corpus go as well; the sections are added to."""
    tree: dict[str, Any] = {
        "run": {"folder": str(folder / "run")},
        "data": {"folder": str(folder / "data"), "sources": [{"type": "reviews", "count": 300}]},
        "tokenizer": {"vocab_size": 700},
        "model": {
            "type": "llama",
            "fields": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        },
        "train": {"steps": 2, "rows_per_step": 4, "micro_batch_rows": 2},
        "evaluation": {"max_records": 8},
    }
    for name, section in sections.items():
        tree[name] = tree.get(name, {}) | section
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return path
