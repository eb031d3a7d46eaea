"""The facts as one web page: no script, nothing from the network, light and dark, wide and narrow."""

from collections.abc import Collection, Iterator, Sequence
from html import escape

from pretrain.preparation.contamination import KINDS
from pretrain.tools.inspection.facts import Facts
from pretrain.tools.inspection.histogram import Histogram
from pretrain.tools.inspection.phrases import (
    BRANCH_HEAD,
    SPLIT_HEAD,
    branch_cells,
    counted,
    figures,
    layout_title,
    leak_notes,
    leak_rows,
    measured,
    record_title,
    size,
    source_notes,
    split_rows,
    token_cells,
    wording_title,
)
from pretrain.tools.inspection.records import Branch, RecordFacts, Token, Wording
from pretrain.tools.inspection.visible import visible

_BAD_ROWS = 20
_LEAKS = 40

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b6470; --page: #f6f7f9; --card: #fff; --line: #dfe3e8;
  --bar: #4878b8; --odd: #d8e6f8; --even: #fbe6c8; --mark: #0b6b50; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #9aa4b0; --page: #14171b; --card: #1c2127;
  --line: #323942; --bar: #6a9ad8; --odd: #24405f; --even: #574020; --mark: #5fd0a8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.4rem; margin: .5rem 0; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
h3 { font-size: .95rem; margin: 1.4rem 0 .3rem; } h4 { font-size: .85rem; margin: .7rem 0 .2rem; font-weight: 600; }
h1, h2, h3, h4, p, li { overflow-wrap: anywhere; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 1rem; margin: 0 0 1rem; }
section > p, .note { color: var(--soft); margin: .4rem 0; font-size: .9rem; }
.box { overflow-x: auto; margin: .4rem 0; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .8rem .2rem 0; text-align: right; white-space: nowrap; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 500; } .l { text-align: left; }
tr:last-child td { border-bottom: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem .8rem; font-size: .88rem; margin: .8rem 0 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; } ul { margin: 0; padding-left: 1.2rem; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 19rem), 1fr)); gap: 1.5rem; }
.chart { display: grid; grid-template-columns: max-content max-content 1fr; gap: 1px .6rem; font-size: .8rem;
  font-variant-numeric: tabular-nums; line-height: 1.35; }
.chart b { font-weight: 400; text-align: right; } .chart b + b { color: var(--soft); }
.chart i { background: var(--bar); border-radius: 0 2px 2px 0; min-height: .9em; align-self: center; }
article { border-top: 1px solid var(--line); margin-top: 1rem; } article:first-of-type { border-top: 0; }
.text { font: 13px/1.75 ui-monospace, monospace; white-space: break-spaces; overflow-wrap: anywhere; margin: 0; }
.text span { background: var(--odd); padding: .12em 0; border-radius: 2px; }
.text span:nth-of-type(even) { background: var(--even); }
.text em { color: var(--soft); font-style: normal; }
td .text { white-space: pre; line-height: 1.4; } .tree { white-space: pre; font-family: ui-monospace, monospace; }
.mark { color: var(--mark); font-weight: 600; } code { font-size: .85em; }
"""


def render(facts: Facts) -> str:
    """The whole page; every text of the corpus in it is escaped, and characters that print as nothing are spelt out."""
    title = f"Corpus {_text(facts.folder.name)}"
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style>"
    )
    sections = (
        ("summary", "Summary", _summary(facts)),
        ("sources", "Sources", _sources(facts)),
        ("duplicates", "Duplicates", _duplicates(facts)),
        ("tests", "Test sets", _tests(facts)),
        ("bad-rows", "Bad rows", _bad_rows(facts)),
        ("lengths", "Lengths in tokens", _lengths(facts)),
        ("records", "Records", _records(facts)),
    )
    body = "\n".join(
        f'<section id="{name}"><h2>{heading}</h2>\n{"".join(part)}</section>' for name, heading, part in sections
    )
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head>\n<body><h1>{title}</h1>\n{body}\n</body></html>\n'


def _text(text: str) -> str:
    return escape(visible(text))


def _note(text: str) -> str:
    return f'<p class="note">{_text(text)}</p>\n'


def _table(rows: Sequence[Sequence[str]], left: Collection[int] = (0,)) -> str:
    """A table in a box of its own; the columns ``left`` are texts."""
    return _html_table([[_text(cell) for cell in row] for row in rows], left)


def _html_table(rows: Sequence[Sequence[str]], left: Collection[int]) -> str:
    lines = []
    for number, row in enumerate(rows):
        tag = "td" if number else "th"
        cells = (f"<{tag}{' class=l' if place in left else ''}>{cell}</{tag}>" for place, cell in enumerate(row))
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="box"><table>\n{chr(10).join(lines)}\n</table></div>\n'


def _summary(facts: Facts) -> Iterator[str]:
    yield _table([SPLIT_HEAD, *split_rows(facts)])
    described = (
        ("views", " and ".join(facts.views)),
        ("texts cut at", counted(facts.max_view_tokens, "token")),
        ("vocabulary", f"{facts.vocab_size:,}"),
        ("prepared", f"{facts.prepared:%Y-%m-%d %H:%M}"),
        ("on disk", size(facts.disk_bytes)),
        ("folder", str(facts.folder)),
        ("fingerprint", facts.fingerprint),
    )
    yield f"<dl>{''.join(f'<dt>{name}</dt><dd>{_text(value)}</dd>' for name, value in described)}</dl>\n"


def _sources(facts: Facts) -> Iterator[str]:
    means = [f"mean {name}" for name in facts.view_titles]
    rows = [
        (
            source.name,
            f"{source.read:,}",
            f"{source.bad:,}",
            *(f"{source.dropped.get(reason, 0):,}" for reason in facts.reasons),
            f"{source.train.records:,}",
            f"{source.heldout.records:,}",
            *token_cells(facts, source.both),
            source.where,
        )
        for source in facts.sources
    ]
    head = ("source", "read", "bad rows", *facts.reasons, "train", "held out", "tokens", *means, "truncated", "from")
    yield _table([head, *rows], left=(0, len(head) - 1))
    yield _note("Between bad rows and train: records dropped, by reason. mean: tokens of a text.")
    for note in source_notes(facts):
        yield _note(note)


def _duplicates(facts: Facts) -> Iterator[str]:
    if not facts.duplicates:
        yield _note("None were dropped.")
        return
    rows = [(one["of"], one["in"], one["reason"], f"{one['records']:,}") for one in facts.duplicates]
    yield _table([("of", "dropped in", "reason", "records"), *rows], left=(0, 1, 2))


def _tests(facts: Facts) -> Iterator[str]:
    if not facts.test_sets:
        yield _note("None are named in data.decontamination.sources.")
        return
    rows = leak_rows(facts, _LEAKS)
    if rows:
        yield _table([("test set", "found in", *KINDS), *rows], left=(0, 1))
    yield from (_note(note) for note in leak_notes(facts, len(rows)))


def _bad_rows(facts: Facts) -> Iterator[str]:
    if not facts.bad_rows:
        yield _note("None.")
        return
    shown = facts.bad_rows[:_BAD_ROWS]
    yield f"<ul>{''.join(f'<li><code>{_text(row)}</code></li>' for row in shown)}</ul>\n"
    if facts.bad > len(shown):
        yield _note(f"{facts.bad:,} in all.")


def _lengths(facts: Facts) -> Iterator[str]:
    yield f'<div class="charts">{"".join(_chart(one) for one in facts.histograms)}</div>\n'
    yield _note(measured(facts))


def _chart(histogram: Histogram) -> str:
    most = max(one.count for one in histogram.bins)
    bars = "".join(
        f'<b>{one.title}</b><b>{one.count:,}</b><i style="width:{100 * one.count / most:.2f}%"></i>\n'
        for one in histogram.bins
    )
    heading = f"<h4>{_text(histogram.title)}</h4>{_note(figures(histogram))}"
    return f'<div>{heading}<div class="chart">{bars}</div></div>'


def _records(facts: Facts) -> Iterator[str]:
    yield _note(
        "Backgrounds alternate from token to token; the id and the name of a token show where it is pointed at."
    )
    for record in facts.records:
        yield f"<article><h3>{_text(record_title(record))}</h3>\n"
        yield from (_wording(wording) for wording in record.wordings)
        if record.num_wordings > len(record.wordings):
            yield _note(f"{record.num_wordings} texts in all")
        yield f"<h4>{_text(layout_title(facts, record))}</h4>\n{_branches(facts, record)}</article>\n"


def _wording(wording: Wording) -> str:
    more = wording.count - len(wording.tokens)
    rest = f"<em>… (+{counted(more, 'token')})</em>" if more else ""
    return f'<h4>{_text(wording_title(wording))}</h4>\n<p class="text">{_tokens(wording.tokens)}{rest}</p>\n'


def _tokens(tokens: Sequence[Token], *, lines: bool = True) -> str:
    return "".join(_token(token, lines) for token in tokens)


def _token(token: Token, lines: bool) -> str:
    shown = _text(token.shown)
    if lines:
        shown = shown.replace("↵", "↵\n")
    return f'<span title="{token.id} {_text(token.name)}">{shown}</span>'


def _branches(facts: Facts, record: RecordFacts) -> str:
    rows = [[_text(cell) for cell in BRANCH_HEAD]]
    for branch in record.branches:
        cells = [_text(cell) for cell in branch_cells(facts, branch, "")]
        cells[BRANCH_HEAD.index("branch")] = f'<span class="tree">{cells[BRANCH_HEAD.index("branch")]}</span>'
        cells[BRANCH_HEAD.index("tokens")] = _ends(branch)
        cells[-1] = f'<span class="mark">{cells[-1]}</span>'
        rows.append(cells)
    return _html_table(rows, range(len(BRANCH_HEAD)))


def _ends(branch: Branch) -> str:
    between = "<em> … </em>" if branch.is_cut else ""
    head, tail = (_tokens(part, lines=False) for part in (branch.head, branch.tail))
    return f'<span class="text">{head}{between}{tail}</span>'
