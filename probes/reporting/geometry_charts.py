"""Small charts of the geometry by layer: one panel for each measure, one key for all."""

from collections.abc import Sequence
from typing import Any

from matplotlib.ticker import MaxNLocator

from probes.reporting.canvas import WIDE, Drawn, draw_legend, draw_line, finish, legend_layout, sheet
from probes.reporting.series import Line, label, line_styles
from probes.results import Estimate, Geometry, Report

MEASURES = {
    "rankme": "effective rank",
    "isotropy": "isotropy",
    "anisotropy": "anisotropy",
    "margin": "pair margin",
    "retrieval": "retrieval@1",
    "mrr": "MRR",
}
_ROW, _GAP = 1.15, 0.5


def draw_geometry(report: Report, found: Sequence[Geometry], name: str, about: str, title: str) -> Drawn:
    """The measures that any of ``found`` (of the same texts and pooling) has."""
    measures = [one for one in MEASURES if any(getattr(item, one) is not None for item in found)]
    known = line_styles(report)
    names = [model for model in known if any(item.model == model for item in found)]
    labels = [label(report, model) for model in names]
    columns, labels, legend = legend_layout(labels)
    panel_columns = 3 if len(measures) == 3 else 2
    rows = -(-len(measures) // panel_columns)
    figure, bottom = sheet(title, WIDE, rows * _ROW + (rows - 1) * _GAP + 0.24, legend)
    tall = figure.get_figheight()
    left, between = 0.42, 0.45
    wide = (WIDE - left - 0.12 - (panel_columns - 1) * between) / panel_columns
    handles: list[Any] = []
    for number, measure in enumerate(measures):
        row, column = divmod(number, panel_columns)
        below = bottom + (rows - 1 - row) * (_ROW + _GAP)
        axes = figure.add_axes(((left + column * (wide + between)) / WIDE, below / tall, wide / WIDE, _ROW / tall))
        axes.tick_params(length=0, pad=3, labelsize=7.5)
        axes.set_title(MEASURES[measure], loc="left", size=8, pad=5)
        axes.grid(axis="y")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
        if row == (len(measures) - 1 - column) // panel_columns:
            axes.set_xlabel("layer", size=8)
        handles = [draw_line(axes, _line(model, found, measure, *known[model]), scale=1.0) for model in names]
    draw_legend(figure, handles, labels, columns)
    return finish(figure, name, about)


def _line(model: str, found: Sequence[Geometry], measure: str, style: int, random: bool) -> Line:
    values = sorted(
        (item.layer, getattr(item, measure))
        for item in found
        if item.model == model and getattr(item, measure) is not None
    )
    estimates = tuple(Estimate(value, value, value) for _, value in values)
    return Line(model, style, random, tuple(layer for layer, _ in values), estimates)
