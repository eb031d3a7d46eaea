"""Shared parts of the charts: sizes, fonts, axes, legends, and export to SVG and PNG."""

import io
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from probes.reporting.palette import MARKERS, SERIES, light
from probes.reporting.series import Level, Line
from probes.reporting.svg import inline

PNG_MARK = "Diptych probing report"

# Inches. A chart is as wide as a phone, so that its text is readable there; on a wide screen two stand side by side.
WIDE, NARROW = 5.0, 3.5
_SIDES, _TOP, _BOTTOM, _ROW, _TITLE_ROW = (0.5, 0.1), 0.32, 0.4, 0.158, 0.15
_DOTS_PER_INCH = 150

_LEVELS: dict[str, tuple[str, Any]] = {
    "tfidf": ("ink", (0, (6, 2))),
    "cut words": ("ink", (0, (2, 2))),
    "majority": ("soft", (0, (1, 1.5))),
    "shuffled": ("soft", (0, (4, 2, 1, 2))),
}
_SETTINGS = {
    "svg.fonttype": "none",
    "svg.hashsalt": "probes",
    "text.parse_math": False,  # names of models may hold dollar signs
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.color": light("ink"),
    "axes.labelcolor": light("soft"),
    "axes.labelsize": 8.5,
    "axes.edgecolor": light("line"),
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "axes.facecolor": "none",
    "xtick.color": light("line"),
    "ytick.color": light("line"),
    "xtick.labelcolor": light("soft"),
    "ytick.labelcolor": light("soft"),
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "grid.color": light("line"),
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.2,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "legend.handlelength": 2.6,
    "legend.borderaxespad": 0,
    "legend.borderpad": 0,
    "legend.labelspacing": 0.4,
}


@dataclass(frozen=True)
class Drawn:
    """A chart in both forms."""

    svg: str
    png: bytes


def pens() -> Any:
    """The settings that every chart is drawn with, as a context."""
    return matplotlib.rc_context(_SETTINGS)


def paper(
    title: str,
    *,
    width: float = WIDE,
    height: float = 2.25,
    legend: int = 0,
    sides: tuple[float, float] = _SIDES,
    below: float = 0.0,
) -> tuple[Figure, Any]:
    """A figure and its axes.

    Args:
        title: Stands above the axes.
        width: Of the figure, in inches.
        height: Of the axes, in inches.
        legend: Rows of the legend.
        sides: Room for labels left and right of the axes, in inches.
        below: Room for further lines of the label below the axes, in inches.
    """
    figure, bottom = sheet(title, width, height + below, legend)
    bottom += below
    tall = figure.get_figheight()
    axes = figure.add_axes((sides[0] / width, bottom / tall, (width - sum(sides)) / width, height / tall))
    axes.tick_params(length=0, pad=4)
    return figure, axes


def sheet(title: str, width: float, height: float, legend: int) -> tuple[Figure, float]:
    """A figure without axes, and the inches that are free below them."""
    bottom = _BOTTOM + legend * _ROW + (0.04 if legend else 0)
    lines = wrapped(title, 58 if width == WIDE else 38)
    figure = Figure(figsize=(width, height + bottom + _TOP + (len(lines) - 1) * _TITLE_ROW))
    tall = figure.get_figheight()
    for number, line in enumerate(lines):
        at = 1 - (0.17 + number * _TITLE_ROW) / tall
        figure.text(0.08 / width, at, line, weight="bold", size=9, va="center")
    return figure, bottom


def wrapped(text: str, width: int) -> list[str]:
    """A text in lines of at most so many characters; nothing of it is left out."""
    return textwrap.wrap(text, width, break_on_hyphens=False) or [text]


def legend_layout(labels: Sequence[str], width: float = WIDE) -> tuple[int, list[str], int]:
    """Columns, labels and rows of a legend; a label that is too long for one row takes several, in a single column."""
    longest = max(map(len, labels), default=0)
    columns = (1 + (longest <= 28) + (longest <= 15)) if width == WIDE else 1 + (longest <= 15)
    columns = min(columns, max(1, len(labels)))
    lines = [wrapped(label, 64 if width == WIDE else 40) for label in labels]
    rows = sum(map(len, lines)) if columns == 1 else -(-len(labels) // columns)
    return columns, ["\n".join(one) for one in lines], rows


def draw_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str], columns: int, **look: float) -> None:
    """The legend, below everything."""
    names = [f" {label}" if label.startswith("_") else label for label in labels]  # else it would hide the entry
    width, tall = figure.get_size_inches()
    figure.legend(handles, names, ncols=columns, loc="lower left", bbox_to_anchor=(0.1 / width, 0.06 / tall), **look)


def draw_line(axes: Any, line: Line, *, scale: float = 100.0, crowd: bool = False) -> Any:
    """A line with its interval as a band, fainter in a crowd; returns what the legend shows."""
    colour = light("ink" if line.style is None else "random" if line.random else SERIES[line.style % len(SERIES)])
    marker = "x" if line.style is None else MARKERS[line.style % len(MARKERS)]
    # Beyond as many models as colours, the dash tells them apart.
    again = line.style is not None and line.style >= len(SERIES)
    dash = _LEVELS["tfidf"][1] if line.style is None else (0, (3, 1.6)) if line.random else "-."[: 1 + again]
    values, lows, highs = ([scale * getattr(one, end) for one in line.estimates] for end in ("value", "low", "high"))
    alpha = (0.06 if line.random else 0.13) * (0.4 if crowd else 1)
    if len(values) > 1 and highs != lows:
        axes.fill_between(line.positions, lows, highs, color=colour, alpha=alpha, linewidth=0)
    elif highs != lows:
        axes.plot(line.positions * 2, [lows[0], highs[0]], color=colour, linewidth=1, alpha=0.6)
    return axes.plot(
        line.positions,
        values,
        color=colour,
        linestyle=dash,
        linewidth=1.1 if line.random else 1.6,
        marker=marker,
        markeredgewidth=0.9,
        markerfacecolor=light("card") if line.random else colour,
    )[0]


def draw_level(axes: Any, level: Level) -> Any:
    """A reference line; returns what the legend shows."""
    colour, dash = _LEVELS[level.kind]
    return axes.axhline(100 * level.value, color=light(colour), linestyle=dash, linewidth=1.1, zorder=1.5)


def in_percent(axes: Any) -> None:
    """An axis of accuracies in percent."""
    axes.grid(axis="y")
    axes.set_ylabel("accuracy, %")
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def finish(figure: Figure, name: str, label: str) -> Drawn:
    """The figure as SVG for a page and as PNG; the same figure gives the same bytes."""
    vector, raster = io.StringIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # a browser has fonts for it
        figure.savefig(vector, format="svg", metadata={"Date": None, "Creator": None}, facecolor="none")
        figure.savefig(
            raster, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": PNG_MARK}, facecolor=light("card")
        )
    return Drawn(inline(vector.getvalue(), name, label), raster.getvalue())
