"""Pieces of the page; whatever comes from data is escaped here."""

import re
from collections.abc import Iterable, Sequence
from html import escape

from pretrain.tools.inspection.visible import visible
from probes.reporting.charts import Chart
from probes.reporting.tables import Cell, Table
from probes.results import Comparison, Report, Wrong


class Marks:
    """What the filters go by: attributes that name the set, by its number, and the pooling."""

    def __init__(self, report: Report) -> None:
        self._numbers = {facts.name: number for number, facts in enumerate(report.sets)}

    def of(self, set_name: str | None, pooling: str | None = None) -> str:
        """The attributes, with a space before each."""
        number = self._numbers.get(set_name) if set_name is not None else None
        marks = "" if number is None else f' data-set="{number}"'
        return marks + ("" if pooling is None else f' data-pooling="{text(pooling)}"')


def text(raw: str) -> str:
    """Text for the page: escaped, with characters that print as nothing spelt out."""
    return escape(visible(raw))


def prose(sentence: str) -> str:
    """A sentence, with what stands between backticks as code, and figures kept together with their signs."""
    together = re.sub(r"(?<=\d) (?=%)|(?<=\bp) (?=[=<])|(?<=\bp [=<]) (?=\.?\d)", "\u00a0", sentence)
    return re.sub(r"`([^`]*)`", r"<code>\1</code>", text(together))


def note(sentence: str) -> str:
    """A sentence that explains."""
    return f'<p class="note">{prose(sentence)}</p>\n'


def listed(sentences: Iterable[str], kind: str = "") -> str:
    """Sentences as a list; nothing without sentences."""
    items = "".join(f"<li>{prose(one)}</li>\n" for one in sentences)
    return f"<ul{f' class={kind}' if kind else ''}>\n{items}</ul>\n" if items else ""


def grid(table: Table, marks: Marks, *, kind: str = "", box: str = "", last: Sequence[str] = ()) -> str:
    """A table in a box that scrolls where it is too wide.

    Args:
        table: What it says.
        marks: For its rows.
        kind: Its class.
        box: A further class of the box.
        last: HTML of a column of bars that is added, one for each row.
    """
    head = "".join(f"<th{_left(table, place)}>{text(title)}</th>" for place, title in enumerate(table.head))
    if last:
        head += "<th class=plain>second better · first better</th>"
    rows = []
    for number, row in enumerate(table.rows):
        inner = "".join(_cell(table, place, cell, kind == "cards") for place, cell in enumerate(row.cells))
        bar = f"<td class=l>{last[number]}</td>" if last else ""
        rows.append(f"<tr{marks.of(row.set, row.pooling)}>{inner}{bar}</tr>\n")
    caption = note(table.caption) if table.caption else ""
    named = f' class="{kind}"' if kind else ""
    # A box that scrolls must be reachable from the keyboard.
    return (
        f'{caption}<div class="box{f" {box}" if box else ""}" tabindex="0" role="region" aria-label="table">'
        f"<table{named}>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}"
        "</tbody></table></div>\n"
    )


def systems_grid(table: Table, marks: Marks) -> str:
    """The table of sets by systems: controls set apart, and names beside figures where a phone shows it as cards."""
    starts, controls, place = set(), set(), 1
    for title, span in table.groups:
        starts.add(place)
        controls |= set(range(place, place + span)) if title.startswith("controls") else set()
        place += span
    groups = "".join(f'<th class="first" colspan="{span}">{text(title)}</th>' for title, span in table.groups)

    def kind(place: int) -> str:
        names = ["first"] * (place in starts) + ["control"] * (place in controls)
        return f' class="{" ".join(names)}"' if names else " class=l" if place == 0 else ""

    head = "".join(f'<th scope="col"{kind(place)}>{text(title)}</th>' for place, title in enumerate(table.head))
    rows = []
    for row in table.rows:
        title = f'<th scope="row" class=l>{_inner(row.cells[0])}</th>'
        inner = "".join(
            f'<td{kind(place)} data-label="{text(table.head[place])}">{_inner(cell)}</td>'
            for place, cell in enumerate(row.cells[1:], 1)
        )
        rows.append(f"<tr{marks.of(row.set)}>{title}{inner}</tr>\n")
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="accuracies"><table class="main">\n'
        f"<thead><tr><th></th>{groups}</tr><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n{note(table.caption)}"
    )


def bar(comparison: Comparison, reach: float) -> str:
    """The interval of a difference on an axis from ``-reach`` to ``reach``."""
    low, middle, high = (
        50 + 50 * value / reach
        for value in (comparison.difference.low, comparison.difference.value, comparison.difference.high)
    )
    kind = "interval different" if comparison.different else "interval"
    return (
        f'<span class="{kind}" aria-hidden="true" style="--a:{low:.1f}%;--w:{high - low:.1f}%;--m:{middle:.1f}%">'
        "<i></i><u></u></span>"
    )


def confusion(table: Table) -> str:
    """Counts, tinted by the share of the gold label."""
    head = "".join(f"<th{_left(table, place)}>{text(title)}</th>" for place, title in enumerate(table.head))
    rows = []
    for number, row in enumerate(table.rows, 1):
        counts = [int(cell.text.replace(",", "")) for cell in row.cells[1:]]
        total = max(1, sum(counts))
        inner = "".join(
            f'<td style="--p:{100 * count / total:.0f}"{" class=hit" * (place == number)}>{count:,}</td>'
            for place, count in enumerate(counts, 1)
        )
        rows.append(f"<tr><th class=l>{text(row.cells[0].text)}</th>{inner}</tr>\n")
    return (
        '<div class="box" tabindex="0" role="region" aria-label="confusion matrix"><table class="confusion">\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody></table></div>\n"
    )


def figures(charts: Iterable[Chart], marks: Marks, *, small: bool = False) -> str:
    """Charts side by side as far as there is room."""
    inner = "".join(f"<figure{marks.of(one.set, one.pooling)}>{one.svg}</figure>\n" for one in charts)
    return f'<div class="figures{" small" * small}">\n{inner}</div>\n'


def examples(wrong: Iterable[Wrong], names: Sequence[str]) -> str:
    """Examples that a probe gets wrong."""
    items = "".join(
        f"<li><p>{text(one.text)}</p><small>gold <b>{text(names[one.gold])}</b>, predicted "
        f"<b>{text(names[one.predicted])}</b> with probability {one.probability:.2f}</small></li>\n"
        for one in wrong
    )
    return f'<ol class="wrong">\n{items}</ol>\n'


def described(items: Iterable[tuple[str, str]]) -> str:
    """Names and what they stand for."""
    inner = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>\n" for name, value in items)
    return f"<dl>\n{inner}</dl>\n" if inner else ""


def _left(table: Table, place: int) -> str:
    return " class=l" if place in table.left else ""


def _cell(table: Table, place: int, cell: Cell, labelled: bool) -> str:
    words = place in table.left
    long = words and max(len(cell.text), len(cell.note)) > 36
    kind = ' class="l wrap"' if long else " class=l" if words else ""
    label = f' data-label="{text(table.head[place])}"' if labelled else ""
    return f"<td{kind}{label}><div>{_inner(cell)}</div></td>" if labelled else f"<td{kind}>{_inner(cell)}</td>"


def _inner(cell: Cell) -> str:
    inner = (
        f"<b>{text(cell.text)}</b>"
        if cell.strong
        else f"<span>{text(cell.text)}</span>"
        if cell.note
        else text(cell.text)
    )
    return inner + "".join(f"<small>{text(line)}</small>" for line in cell.note.splitlines())
