"""The report as Markdown, with the charts as pictures beside it."""

import re
from collections.abc import Iterable, Sequence

from pretrain.tools.visible import visible
from probes.reporting.charts import NOTES, Chart
from probes.reporting.lookup import display_name, model_notes
from probes.reporting.phrases import as_text
from probes.reporting.summary import subtitle, summarise
from probes.reporting.tables import (
    Cell,
    Table,
    class_table,
    comparison_table,
    confusion_table,
    data_table,
    geometry_table,
    main_table,
    model_table,
    score_table,
    settings_table,
    truncation_table,
    where,
    wrong_table,
)
from probes.results import Report

MARK = "<!-- Diptych probing report -->"

_MOST_WRONG = 5
_SPECIAL = re.compile(r"([\\`*_\[\]|#~$])")


def render(report: Report, charts: Sequence[Chart]) -> str:
    """The whole text; whatever comes from data is escaped."""
    found = summarise(report)
    blocks = [
        f"{MARK}\n# {_text(report.title)}",
        _text(subtitle(report)),
        *(f"**{_prose(one)}**" for one in found.headline),
        _listed([*found.sets, *found.cautions]),
        _table(settings_table(report)),
        *_section("Problems", _listed(report.problems)),
        *_section("Notes", _listed(report.notes)),
        *_section("Accuracy", _table(main_table(report))),
        *_section("Accuracy by layer", _pictures(charts, "layers")),
        *_section("Learning curves", _pictures(charts, "learning")),
        *_section("Accuracy over training", _pictures(charts, "training")),
        *_section("Comparisons", _table(comparison_table(report))),
        *_section("Geometry", _pictures(charts, "geometry"), _table(geometry_table(report))),
        *_section("Similarity of layers (linear CKA)", _pictures(charts, "similarity")),
        *_section("Projections", _pictures(charts, "projection")),
        *_section("Confusion", *_confusions(report)),
        *_section("Examples it gets wrong", *_wrong(report)),
        *_section(
            "Data",
            _table(data_table(report)),
            _table(class_table(report)),
            *_notes(report),
            _table(truncation_table(report)),
        ),
        *_section("Models", _table(model_table(report)), _listed(model_notes(report))),
        *_section("All scores", _table(score_table(report))),
        *_section("Settings", *_settings(report)),
    ]
    return "\n\n".join(filter(None, blocks)) + "\n"


def _section(title: str, *parts: str) -> list[str]:
    found = [part for part in parts if part]
    return [f"## {title}", *found] if found else []


def _text(raw: str) -> str:
    # Some readers of Markdown know no backslash before "<".
    entities = visible(raw).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", entities)


def _prose(sentence: str) -> str:
    """A sentence whose names between backticks stay code."""
    pieces = re.split(r"(`[^`]*`)", visible(sentence))
    return "".join(piece if number % 2 else _text(piece) for number, piece in enumerate(pieces))


def _listed(sentences: Sequence[str]) -> str:
    return "\n".join(f"- {_prose(one)}" for one in sentences)


def _table(table: Table | None) -> str:
    if table is None:
        return ""
    rule = (":---" if place in table.left else "---:" for place in range(len(table.head)))
    lines = [_line(map(_text, table.head)), _line(rule), *(_line(map(_cell, row.cells)) for row in table.rows)]
    return "\n".join(lines) + (f"\n\n{_text(table.caption)}" if table.caption else "")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cell(cell: Cell) -> str:
    shown = f"**{_text(cell.text)}**" if cell.strong else _text(cell.text)
    return shown + (f" ({_text(cell.note.replace(chr(10), ', '))})" if cell.note else "")


def _pictures(charts: Sequence[Chart], kind: str) -> str:
    found = [f"![{_text(one.label)}](figures/{one.name}.png)" for one in charts if one.kind == kind]
    return "\n\n".join([_text(NOTES[kind]), *found]) if found else ""


def _confusions(report: Report) -> list[str]:
    parts = []
    for facts in report.sets:
        for one in report.predictions:
            if one.set == facts.name and one.confusion:
                parts += [
                    _heading(facts.title, display_name(report, one.system), where(one)),
                    _table(confusion_table(facts, one)),
                ]
    return parts


def _wrong(report: Report) -> list[str]:
    parts = []
    for facts in report.sets:
        for one in report.predictions:
            if one.set == facts.name and one.wrong:
                parts += [
                    _heading(facts.title, display_name(report, one.system), where(one)),
                    _table(wrong_table(facts, one, _MOST_WRONG)),
                ]
    return parts


def _heading(title: str, system: str, at: str) -> str:
    return f"### {_text(title)}: {_text(system)}{f' ({_text(at)})' if at else ''}"


def _notes(report: Report) -> list[str]:
    return [
        f"{title} of {_text(facts.title)}:\n\n{_listed(sentences)}"
        for facts in report.sets
        for title, sentences in (("Overlaps", facts.overlaps), ("Notes", facts.notes))
        if sentences
    ]


def _settings(report: Report) -> list[str]:
    # A fence longer than any that the command holds.
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", report.command)), default=0))
    items = [f"{name}: {as_text(value)}" for name, value in report.settings.items()]
    return [
        f"{fence}sh\n{report.command}\n{fence}" if report.command else "",
        _listed(items),
        _listed([f"{name} {version}" for name, version in report.versions.items()]),
    ]
