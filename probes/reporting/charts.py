"""The charts of a report: which there are and what each shows."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from probes.reporting.canvas import (
    NARROW,
    Drawn,
    draw_legend,
    draw_level,
    draw_line,
    finish,
    in_percent,
    legend_layout,
    paper,
    pens,
    wrapped,
)
from probes.reporting.geometry_charts import draw_geometry
from probes.reporting.lookup import display_name, poolings
from probes.reporting.palette import MARKERS, SERIES, light
from probes.reporting.phrases import counted, percent, pooling_title
from probes.reporting.series import Level, Line, layer_lines, learning_lines, levels, training_lines
from probes.results import Predictions, Report, SetFacts, Similarity

FILE_NAME = re.compile(r"(layers|learning|training|geometry|cka|projection)(-[a-z0-9-]*)?\.png")
"""What the picture of a chart may be called."""

NOTES = {
    "layers": "Bands are 95 % intervals over test examples; grey dashed lines with hollow markers are random weights. "
    "Layer 0 is the embeddings.",
    "learning": "At the layer that cross-validation chose with all training examples. Bands are 95 % intervals over "
    "test examples; they leave out the variation over training subsets.",
    "training": "Checkpoints of one run, each at the layer that cross-validation chose.",
    "geometry": "Effective rank is RankMe; anisotropy is the mean cosine of two different texts; margin, retrieval@1 "
    "and MRR are about texts that mean the same.",
    "similarity": "Linear CKA: 1 where two layers hold the same up to rotation and scale.",
    "projection": "The two principal components of some test examples, marked by their gold label.",
}
"""How to read the charts of a kind."""

_MOST_POINTS = 400
_LINE = 0.14  # inches that a further line of an axis label takes


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Of its file, without the ending; unique within the report.
        kind: ``layers``, ``learning``, ``training``, ``geometry``, ``similarity`` or ``projection``.
        label: What it shows, in a sentence or two.
        set: The labelled set that it is about; None where it is about other texts.
        pooling: The pooling that it is about; None where the choice of a pooling does not matter.
        svg: For the page.
        png: For everything else.
    """

    name: str
    kind: str
    label: str
    set: str | None
    pooling: str | None
    svg: str
    png: bytes


def draw_charts(report: Report) -> tuple[Chart, ...]:
    """All charts; the same report gives the same bytes."""
    names = _Names()
    with pens():
        return tuple(
            chart
            for kind in (_by_layer, _by_size, _by_progress, _geometry, _similarities, _projections)
            for chart in kind(report, names)
        )


class _Names:
    """File names that are safe everywhere and never the same twice."""

    def __init__(self) -> None:
        self._taken: set[str] = set()

    def new(self, *parts: str | None) -> str:
        words = (re.sub(r"[^a-z0-9]+", "-", part.lower()).strip("-") for part in parts if part)
        wanted = "-".join(filter(None, words))[:90]
        name, number = wanted, 2
        while name in self._taken:
            name, number = f"{wanted}-{number}", number + 1
        self._taken.add(name)
        return name


def _by_layer(report: Report, names: _Names) -> Iterator[Chart]:
    for facts in report.sets:
        for pooling in poolings(report):
            lines = layer_lines(report, facts.name, pooling)
            if lines:
                name = names.new("layers", facts.name, pooling)
                label = f"Accuracy by layer on {facts.title}, {pooling_title(pooling)}. {_peaks(lines)}"
                references = levels(report, facts.name, pooling)
                drawn = _lines_chart(name, label, _title(facts, pooling), lines, references, "layer")
                yield Chart(name, "layers", label, facts.name, pooling, drawn.svg, drawn.png)


def _by_size(report: Report, names: _Names) -> Iterator[Chart]:
    for facts in report.sets:
        for pooling in poolings(report):
            lines = learning_lines(report, facts.name, pooling)
            if lines:
                name = names.new("learning", facts.name, pooling)
                label = f"Accuracy by training examples on {facts.title}, {pooling_title(pooling)}. {_ends(lines)}"
                words = any(line.style is None and len(line.positions) > 1 for line in lines)
                references = levels(report, facts.name, pooling, words=not words)
                if not words:
                    lines = [line for line in lines if line.style is not None]
                drawn = _lines_chart(name, label, _title(facts, pooling), lines, references, "training examples")
                yield Chart(name, "learning", label, facts.name, pooling, drawn.svg, drawn.png)


def _by_progress(report: Report, names: _Names) -> Iterator[Chart]:
    for facts in report.sets:
        for pooling in poolings(report):
            lines, in_tokens = training_lines(report, facts.name, pooling)
            if lines:
                unit = "training tokens" if in_tokens else "training steps"
                name = names.new("training", facts.name, pooling)
                label = f"Accuracy over {unit} on {facts.title}, {pooling_title(pooling)}. {_ends(lines)}"
                references = levels(report, facts.name, pooling)
                drawn = _lines_chart(name, label, _title(facts, pooling), lines, references, unit)
                yield Chart(name, "training", label, facts.name, pooling, drawn.svg, drawn.png)


def _geometry(report: Report, names: _Names) -> Iterator[Chart]:
    titles = {facts.name: facts.title for facts in report.sets}
    for texts in dict.fromkeys(one.texts for one in report.geometry):
        for pooling in poolings(report):
            found = [one for one in report.geometry if (one.texts, one.pooling) == (texts, pooling)]
            if found:
                name = names.new("geometry", texts, pooling)
                label = f"Geometry by layer on {texts}, {pooling_title(pooling)}; the figures are in the table."
                title = f"{titles.get(texts, texts)} · {pooling_title(pooling)}"
                drawn = draw_geometry(report, found, name, label, title)
                yield Chart(name, "geometry", label, texts if texts in titles else None, pooling, drawn.svg, drawn.png)


def _similarities(report: Report, names: _Names) -> Iterator[Chart]:
    titles = {facts.name: facts.title for facts in report.sets}
    for one in report.similarities:
        name = names.new("cka", one.texts, one.first, one.second, one.pooling)
        last = one.values[-1][-1]
        label = (
            f"Linear CKA between the layers of {display_name(report, one.first)} and of "
            f"{display_name(report, one.second)} on {one.texts}, {pooling_title(one.pooling)}: "
            f"{last:.2f} between the last layers."
        )
        drawn = _heat_map(report, one, titles.get(one.texts, one.texts), name, label)
        where = one.texts if one.texts in titles else None
        yield Chart(name, "similarity", label, where, one.pooling, drawn.svg, drawn.png)


def _projections(report: Report, names: _Names) -> Iterator[Chart]:
    for facts in report.sets:
        for one in report.predictions:
            if one.set == facts.name and one.points:
                name = names.new("projection", one.set, one.system, one.pooling)
                shown = min(len(one.points), _MOST_POINTS)
                label = (
                    f"{counted(shown, 'test example')} of {facts.title} on the two principal components of "
                    f"{display_name(report, one.system)}, layer {one.layer}, {pooling_title(one.pooling)}, "
                    "marked by gold label."
                )
                drawn = _scatter(report, one, facts, name, label)
                yield Chart(name, "projection", label, facts.name, None, drawn.svg, drawn.png)


def _title(facts: SetFacts, pooling: str) -> str:
    return f"{facts.title} · {pooling_title(pooling)}"


def _peaks(lines: Sequence[Line]) -> str:
    told = []
    for line in lines:
        place, best = max(zip(line.positions, line.estimates, strict=True), key=lambda item: item[1].value)
        told.append(f"{line.label}: highest {percent(best.value)} % at layer {place:g}")
    return "; ".join(told) + "."


def _ends(lines: Sequence[Line]) -> str:
    told = (
        f"{line.label}: {percent(line.estimates[0].value)} % to {percent(line.estimates[-1].value)} %"
        for line in lines
        if len(line.positions) > 1
    )
    return "; ".join(told) + "."


def _lines_chart(
    name: str, label: str, title: str, lines: Sequence[Line], references: Sequence[Level], axis: str
) -> Drawn:
    labels = [line.label for line in lines] + [level.label for level in references]
    columns, labels, rows = legend_layout(labels)
    figure, axes = paper(title, legend=rows)
    in_percent(axes)
    crowd = sum(not line.random for line in lines) > 4
    handles = [draw_line(axes, line, crowd=crowd) for line in lines] + [draw_level(axes, level) for level in references]
    draw_legend(figure, handles, labels, columns)
    axes.set_xlabel(axis)
    places = sorted({place for line in lines for place in line.positions})
    if axis == "layer":
        axes.xaxis.set_major_locator(MaxNLocator(nbins=14, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: "emb." if value == 0 else f"{value:g}"))
    elif axis == "training examples":
        axes.set_xscale("log")
        axes.set_xticks(_apart(places))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
    else:
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
    axes.margins(x=0.03)
    return finish(figure, name, label)


def _apart(places: Sequence[float]) -> list[float]:
    """Places on a logarithmic axis whose labels do not touch, the last one among them."""
    room = (math.log(places[-1]) - math.log(places[0])) / 9 if len(places) > 1 else 0.0
    kept: list[float] = []
    for place in reversed(places):
        if not kept or math.log(kept[-1]) - math.log(place) >= room:
            kept.append(place)
    return kept


def _short(value: float, _: object = None) -> str:
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(value) >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:g}"


def _heat_map(report: Report, one: Similarity, texts: str, name: str, label: str) -> Drawn:
    across, down = (wrapped(f"layer of {display_name(report, model)}", 34) for model in (one.second, one.first))
    figure, axes = paper(
        f"{texts} · {pooling_title(one.pooling)}",
        width=NARROW,
        height=2.45,
        sides=(0.5 + _LINE * (len(down) - 1), 0.6),
        below=_LINE * (len(across) - 1),
    )
    image = axes.imshow(
        np.array(one.values), cmap="cividis", vmin=0, vmax=1, origin="lower", interpolation="none", aspect="auto"
    )
    for side in axes.spines.values():
        side.set_visible(False)
    for axis, lines in ((axes.xaxis, across), (axes.yaxis, down)):
        axis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        axis.set_label_text("\n".join(lines))
    box = axes.get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((box.x1 + 0.03, box.y0, 0.03, box.height)), ticks=[0, 0.5, 1])
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0)
    return finish(figure, name, label)


def _scatter(report: Report, one: Predictions, facts: SetFacts, name: str, label: str) -> Drawn:
    # Every n-th, so that large reports stay small.
    step = -(-len(one.points) // _MOST_POINTS)
    points, labels = np.array(one.points[::step]), np.array(one.point_labels[::step])
    columns, names, rows = legend_layout(facts.label_names, NARROW)
    where = f"{facts.title} · {display_name(report, one.system)}"
    figure, axes = paper(where, width=NARROW, height=2.35, legend=rows, sides=(0.12, 0.12))
    handles: list[Any] = []
    for number in range(len(facts.label_names)):
        chosen = points[labels == number]
        colour = light(SERIES[number % len(SERIES)])
        handles += axes.plot(
            chosen[:, 0],
            chosen[:, 1],
            linestyle="none",
            marker=MARKERS[number % len(MARKERS)],
            markersize=3.4,
            color=colour,
            markeredgewidth=0,
            alpha=0.72,
        )
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(f"principal components, layer {one.layer}, {one.pooling}")
    draw_legend(figure, handles, names, columns, handlelength=1, markerscale=1.3)
    return finish(figure, name, label)
