"""The report as one web page that needs nothing else: no network, and for reading no script."""

import base64
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.resources import files

from probes.reporting.charts import NOTES, Chart
from probes.reporting.lookup import named, poolings, trained
from probes.reporting.palette import style_sheet
from probes.reporting.phrases import as_text, counted, moment, pooling_title
from probes.reporting.pieces import (
    Marks,
    bar,
    confusion,
    described,
    examples,
    figures,
    grid,
    listed,
    note,
    prose,
    systems_grid,
    text,
)
from probes.reporting.summary import summarise
from probes.reporting.svg import share
from probes.reporting.tables import (
    class_table,
    comparison_table,
    confusion_table,
    data_table,
    geometry_table,
    main_table,
    model_table,
    score_table,
    truncation_table,
    where,
)
from probes.results import Predictions, Report, SetFacts


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole page."""
    marks = Marks(report)
    drawings, rules = share({chart.name: chart.svg for chart in charts})
    charts = [replace(chart, svg=svg) for chart, svg in zip(charts, drawings, strict=True)]
    parts: list[tuple[str, str, str]] = [
        ("summary", "Summary", _summary(report)),
        ("problems", "Problems", listed(report.problems)),
        ("notes", "Notes", listed(report.notes)),
        ("accuracy", "Accuracy", _accuracy(report, marks)),
        ("layers", "Accuracy by layer", _charts(charts, "layers", marks)),
        ("learning", "Learning curves", _charts(charts, "learning", marks)),
        ("training", "Accuracy over training", _charts(charts, "training", marks)),
        ("comparisons", "Comparisons", _comparisons(report, marks)),
        ("geometry", "Geometry", _geometry(report, charts, marks)),
        ("similarity", "Similarity of layers", _charts(charts, "similarity", marks, small=True)),
        ("projection", "Projections", _charts(charts, "projection", marks, small=True)),
        ("confusion", "Confusion", _by_set(report, marks, _confusions)),
        ("wrong", "Examples it gets wrong", _by_set(report, marks, _wrong)),
        ("data", "Data", _data(report, marks)),
        ("models", "Models", _models(report, marks)),
        ("scores", "All scores", _scores(report, marks)),
        ("settings", "Settings", _settings(report)),
    ]
    shown = [(name, title, body) for name, title, body in parts if body]
    script = _file("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    values = {
        "title": text(report.title),
        "subtitle": text(_subtitle(report)),
        "style": style_sheet() + _file("page.css") + rules,
        "script": script,
        "script_hash": digest,
        "nav": "".join(f'<a href="#{name}">{title}</a>\n' for name, title, _ in shown),
        "filters": _filters(report),
        "sections": "".join(
            f'<section id="{name}">\n<h2>{title}</h2>\n{body}'
            '<p class="note nothing" hidden>Nothing here for this choice.</p>\n</section>\n'
            for name, title, body in shown
        ),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], _file("page.html"))


def _file(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _subtitle(report: Report) -> str:
    models = counted(len(trained(report)), "model")
    return f"{models} on {counted(len(report.sets), 'labelled set')} · {moment(report.created)}"


def _filters(report: Report) -> str:
    sets = [(str(number), facts.title) for number, facts in enumerate(report.sets)]
    choices = [("set", "Set", sets), ("pooling", "Pooling", [(one, pooling_title(one)) for one in poolings(report)])]
    groups = []
    for name, title, values in choices:
        if len(values) > 1:
            inner = "".join(
                f'<label><input type="radio" name="{name}" value="{text(value)}"{" checked" * (not value)}>'
                f"<span>{text(shown)}</span></label>\n"
                for value, shown in [("", "All"), *values]
            )
            groups.append(f'<fieldset><legend>{title}</legend><div class="choices">{inner}</div></fieldset>\n')
    return f'<form id="filters" autocomplete="off" hidden>\n{"".join(groups)}</form>\n' if groups else ""


def _summary(report: Report) -> str:
    found = summarise(report)
    headline = "".join(f'<p class="headline">{prose(one)}</p>\n' for one in found.headline)
    return headline + listed(found.sets) + listed(found.cautions, "cautions")


def _accuracy(report: Report, marks: Marks) -> str:
    table = main_table(report)
    if table is None:
        return ""
    known = poolings(report)
    if len(known) < 2:
        return systems_grid(table, marks)
    parts = [f'<div data-only="">{systems_grid(table, marks)}</div>\n']
    for pooling in known:
        own = main_table(report, pooling)
        if own:
            title = f"<h3>{text(pooling_title(pooling)).capitalize()}</h3>"
            parts.append(f'<div data-only="{text(pooling)}">{title}{systems_grid(own, marks)}</div>\n')
    return "".join(parts)


def _charts(charts: Sequence[Chart], kind: str, marks: Marks, *, small: bool = False) -> str:
    found = [one for one in charts if one.kind == kind]
    return note(NOTES[kind]) + figures(found, marks, small=small) if found else ""


def _comparisons(report: Report, marks: Marks) -> str:
    table = comparison_table(report)
    if table is None:
        return ""
    ends = [abs(end) for one in report.comparisons for end in (one.difference.low, one.difference.high)]
    bars = [bar(one, max(*ends, 1e-9)) for one in report.comparisons]
    box = "tall" if len(bars) > 15 else ""
    return grid(table, marks, kind="sortable pairs", box=box, last=bars)


def _geometry(report: Report, charts: Sequence[Chart], marks: Marks) -> str:
    table = geometry_table(report)
    if table is None:
        return ""
    title = f"<summary>All {counted(len(table.rows), 'row')} as a table</summary>"
    rows = grid(table, marks, kind="sortable", box="tall")
    return f"{_charts(charts, 'geometry', marks)}<details>{title}{rows}</details>\n"


def _by_set(report: Report, marks: Marks, body: Callable[[Report, SetFacts, list[Predictions]], str]) -> str:
    parts = []
    for facts in report.sets:
        inner = body(report, facts, [one for one in report.predictions if one.set == facts.name])
        if inner:
            parts.append(f"<div{marks.of(facts.name)}><h3>{text(facts.title)}</h3>\n{inner}</div>\n")
    return "".join(parts)


def _confusions(report: Report, facts: SetFacts, found: list[Predictions]) -> str:
    grids = "".join(
        f"<div><h4>{_who(report, one)}</h4>{confusion(confusion_table(facts, one))}</div>\n"
        for one in found
        if one.confusion
    )
    return f'<div class="grids">\n{grids}</div>\n' if grids else ""


def _wrong(report: Report, facts: SetFacts, found: list[Predictions]) -> str:
    return "".join(
        f"<details{' open' * (not number)}><summary>{_who(report, one)}</summary>\n"
        f"{examples(one.wrong, facts.label_names)}</details>\n"
        for number, one in enumerate(one for one in found if one.wrong)
    )


def _who(report: Report, one: Predictions) -> str:
    at = where(one)
    return text(named(report, one.system)) + (f" <small>{text(at)}</small>" if at else "")


def _data(report: Report, marks: Marks) -> str:
    table = data_table(report)
    parts = [grid(table, marks, kind="cards")] if table else []
    balance = class_table(report)
    if balance:
        parts.append(f"<h3>Classes</h3>\n{grid(balance, marks, box='tall' if len(balance.rows) > 15 else '')}")
    for title, notes in (("Overlaps", "overlaps"), ("Notes", "notes")):
        lists = "".join(
            f"<div{marks.of(facts.name)}><h4>{text(facts.title)}</h4>{listed(getattr(facts, notes))}</div>\n"
            for facts in report.sets
            if getattr(facts, notes)
        )
        parts += [f"<h3>{title}</h3>\n{lists}"] * bool(lists)
    cut = truncation_table(report)
    parts += [f"<h3>Texts cut at the context of a model</h3>\n{grid(cut, marks)}"] if cut else []
    return "".join(parts)


def _models(report: Report, marks: Marks) -> str:
    table = model_table(report)
    notes = [f"`{model.name}`: {one}" for model in report.models for one in model.notes]
    return (grid(table, marks, kind="cards") if table else "") + listed(notes)


def _scores(report: Report, marks: Marks) -> str:
    table = score_table(report)
    if table is None:
        return ""
    search = (
        '<p hidden><input type="search" id="find" placeholder="Filter rows, e.g. tf-idf 1000" '
        'aria-label="Filter rows"> <span class="note" id="found" role="status"></span></p>\n'
    )
    return search + grid(table, marks, kind="sortable", box="tall")


def _settings(report: Report) -> str:
    settings = [(name, as_text(value)) for name, value in report.settings.items()]
    parts = [f"<h3>Command</h3>\n<pre>{text(report.command)}</pre>\n"] * bool(report.command)
    parts += [f"<h3>Settings</h3>\n{described(settings)}"] * bool(settings)
    parts += [f"<h3>Versions</h3>\n{described(report.versions.items())}"] * bool(report.versions)
    return "".join(parts)
