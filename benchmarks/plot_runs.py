"""Curves of runs side by side, from their metrics.jsonl: ``python benchmarks/plot_runs.py OUT.png NAME=RUN ...``."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PANELS = {
    "eval/bits_per_byte": "held-out bits per byte",
    "eval/pair_loss": "held-out pair distance D",
    "health/prediction_unpaired_cosine": "cosine of predictions and others' targets (1 = collapsed)",
    "health/target_std": "spread of target embeddings (0 = collapsed)",
    "health/source_effective_rank": "effective rank of source embeddings",
    "health/views_retrieval_at_1": "retrieval@1 (second view by first)",
}


def read_metric(run: Path, name: str) -> tuple[list[int], list[float]]:
    """Steps and values of one metric; a later line of the same step wins, as after a resumption."""
    values: dict[int, float] = {}
    for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        if name in record:
            values[record["step"]] = record[name]
    steps = sorted(values)
    return steps, [values[step] for step in steps]


def named_run(word: str) -> tuple[str, Path]:
    """Name and folder of a run."""
    name, equals, run = word.partition("=")
    if not (name and equals and run):
        raise argparse.ArgumentTypeError(f"{word}: expected NAME=RUN, a name and a run folder")
    return name, Path(run)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT.png", help="the picture")
    parser.add_argument("runs", nargs="+", type=named_run, metavar="NAME=RUN", help="run folder, and its curve's name")
    arguments = parser.parse_args()
    figure, axes = plt.subplots(2, 3, figsize=(13, 6.5))
    for axis, (metric, title) in zip(axes.flat, PANELS.items(), strict=True):
        for name, run in arguments.runs:
            axis.plot(*read_metric(run, metric), label=name)
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.tick_params(labelsize=8)
        axis.set_ylim(bottom=min(0, axis.get_ylim()[0]))
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(arguments.out, dpi=110)


if __name__ == "__main__":
    main()
