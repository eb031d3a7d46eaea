"""The data of the charts: which scores form a line, and in which order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from probes.reporting.lookup import (
    controls,
    display_name,
    models_sharing,
    random_weights,
    runs,
    seed_title,
    shuffled,
    trained,
    twins,
    whole,
)
from probes.reporting.phrases import is_control, system_title
from probes.results import Estimate, ModelFacts, Report, Score


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        label: For the legend.
        style: Number of its colour and marker; None for a control.
        random: True for random weights.
        positions: Where its points stand.
        estimates: One for each place.
    """

    label: str
    style: int | None
    random: bool
    positions: tuple[float, ...]
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Level:
    """A reference that does not change along a chart."""

    label: str
    kind: str
    value: float


def line_styles(report: Report) -> dict[str, tuple[int, bool]]:
    """Number of a model's colour, and whether it has random weights: such a twin has the number of its first model."""
    numbers = {model.name: number for number, model in enumerate(trained(report))}
    found = {name: (number, False) for name, number in numbers.items()}
    for model in twins(report):
        found[model.name] = (numbers.get(model.random_twin_of or "", len(found)), True)
    return found


def label(report: Report, model: str) -> str:
    """A model in a legend, where there is little room."""
    names = models_sharing(report, model)
    if len(names) < 2:
        return display_name(report, model)
    seed = seed_title(report, model)
    if len(random_weights(report)) == 1:
        return f"random weights{seed}"
    return system_title(f"random{seed}: {names[0]} + {len(names) - 1} more")


def layer_lines(report: Report, set_name: str, pooling: str) -> list[Line]:
    """Accuracy by layer, of probes trained on everything."""
    size = whole(report, set_name)
    lines = []
    for name, (style, random) in line_styles(report).items():
        found = sorted(
            (
                (score.layer, score.accuracy)
                for score in _of(report, set_name, name, pooling)
                if score.train_size == size and score.layer is not None
            ),
            key=lambda item: item[0],
        )
        lines += _line(label(report, name), style, random, found)
    return lines


def learning_lines(report: Report, set_name: str, pooling: str) -> list[Line]:
    """Accuracy by training examples, at the layer chosen with all of them; empty if there is one size alone."""
    lines = []
    for name, (style, random) in line_styles(report).items():
        lines += _line(label(report, name), style, random, _by_size(report, set_name, name, pooling))
    if not any(len(line.positions) > 1 for line in lines):
        return []
    words = [name for name in controls(report) if name != "majority" and report.chosen(set_name, name)]
    for name in words[:-1] or words:  # where models cut texts, what they read: two such lines would look alike
        lines += _line(system_title(name), None, False, _by_size(report, set_name, name, None))
    return lines


def training_lines(report: Report, set_name: str, pooling: str) -> tuple[list[Line], bool]:
    """Accuracy over the training of every run with several checkpoints, and whether it is counted in tokens."""
    found = runs(report)
    in_tokens = all(model.tokens is not None for models in found.values() for model in models)
    lines = []
    for number, (run, models) in enumerate(found.items()):
        points = [
            (float(_progress(model, in_tokens)), score.accuracy)
            for model in models
            if (score := report.chosen(set_name, model.name, pooling))
        ]
        if len(points) > 1:
            lines += _line(run_title(run, list(found)), number, False, points)
    return lines, in_tokens


def run_title(run: str, among: Sequence[str]) -> str:
    """The name of a run's folder; its whole path where two have that name."""
    name = PurePath(run).name
    return name if sum(PurePath(other).name == name for other in among) == 1 else run


def levels(report: Report, set_name: str, pooling: str, *, words: bool = True) -> list[Level]:
    """TF-IDF words, the most frequent class and the best probe with shuffled labels."""
    found = []
    for name in controls(report):
        score = report.chosen(set_name, name)
        if score and (words or name == "majority"):
            kind = name if name in ("tfidf", "majority") else "cut words"
            found.append(Level(system_title(name), kind, score.accuracy.value))
    control = shuffled(report, set_name, pooling)
    if control:
        found.append(Level("shuffled labels, highest", "shuffled", control.accuracy.value))
    return found


def _of(report: Report, set_name: str, system: str, pooling: str | None) -> list[Score]:
    return [
        score
        for score in report.scores
        if (score.set, score.system, score.pooling, score.shuffled) == (set_name, system, pooling, False)
    ]


def _by_size(report: Report, set_name: str, system: str, pooling: str | None) -> list[tuple[float, Estimate]]:
    chosen = report.chosen(set_name, system, None if is_control(system) else pooling)
    by_size: dict[int, list[Score]] = {}
    for score in _of(report, set_name, system, pooling):
        by_size.setdefault(score.train_size, []).append(score)
    found: list[tuple[float, Estimate]] = []
    for size, scores in sorted(by_size.items()):
        at_layer = [score for score in scores if chosen and score.layer == chosen.layer] or scores
        found.append((size, max(at_layer, key=lambda score: score.cv_accuracy or 0.0).accuracy))
    return found


def _line(label: str, style: int | None, random: bool, found: Sequence[tuple[float, Estimate]]) -> list[Line]:
    if not found:
        return []
    return [Line(label, style, random, tuple(place for place, _ in found), tuple(one for _, one in found))]


def _progress(model: ModelFacts, in_tokens: bool) -> int:
    return (model.tokens if in_tokens else model.step) or 0
