"""Labelled reviews for the demo: ``python -m finetune.demo_data FOLDER`` writes train.jsonl and test.jsonl.

They come from the grammar that the demo pre-trains on, drawn with other seeds.
"""

from pretrain.runtime.preemption import preemption

if __name__ == "__main__":
    preemption.listen()  # before what takes seconds to import

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pretrain.runtime.command import run_command
from pretrain.runtime.errors import DiptychError
from pretrain.sources.part import Part
from pretrain.sources.synthetic.reviews import ReviewsSource

_FILES = {"train.jsonl": (3000, 1), "test.jsonl": (400, 2)}
"""Number of reviews and seed of each file."""


def write_reviews(path: Path, count: int, seed: int) -> None:
    """Writes reviews with the fields ``text``, ``label`` (0 or 1) and ``label_name`` (negative or positive).

    Raises:
        DiptychError: The file holds something else.
    """
    lines = []
    for record in ReviewsSource(count=count, seed=seed).read(Part("reviews", "", 0, 0, count, 1)):
        label = int(record.label or 0)
        row = {"text": record.views["review"][0], "label": label, "label_name": ("negative", "positive")[label]}
        lines.append(json.dumps(row) + "\n")
    text = "".join(lines)
    if path.exists() and path.read_text(encoding="utf-8") != text:
        raise DiptychError(f"{path}: is there and holds something else; choose another folder")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def main(argv: Sequence[str]) -> int:
    """The command ``python -m finetune.demo_data``."""
    if len(argv) != 1 or argv[0].startswith("-"):
        print(__doc__)
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    for name, (count, seed) in _FILES.items():
        write_reviews(Path(argv[0]) / name, count, seed)
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
