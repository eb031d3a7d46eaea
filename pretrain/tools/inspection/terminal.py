"""The facts as text for a terminal."""

import textwrap
from collections.abc import Iterator, Sequence

from pretrain.tools.inspection.facts import Facts
from pretrain.tools.inspection.histogram import Histogram
from pretrain.tools.inspection.phrases import (
    BRANCH_HEAD,
    DUPLICATE_HEAD,
    LEAK_HEAD,
    SPLIT_HEAD,
    branch_cells,
    duplicate_rows,
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
from pretrain.tools.inspection.records import Branch, Token, Wording
from pretrain.tools.visible import columns, cut, visible

_BAD_ROWS = 5
_LEAKS = 12
_LINES = 3
_BLOCKS = " ▏▎▍▌▋▊▉█"
_COLOURS = ("\x1b[30;48;5;153m", "\x1b[30;48;5;223m")
_BOLD, _DIM, _OFF = "\x1b[1m", "\x1b[2m", "\x1b[0m"


def render(facts: Facts, width: int, colour: bool) -> str:
    """The facts as lines of text.

    Args:
        facts: The facts.
        width: Columns of the terminal.
        colour: Whether tokens are told apart by colours; else by ``|``, with ``·`` for a space.
    """
    return "\n".join(_Terminal(facts, width, colour).lines()) + "\n"


class _Terminal:
    def __init__(self, facts: Facts, width: int, colour: bool) -> None:
        self.facts, self.width, self.colour = facts, width, colour

    def lines(self) -> Iterator[str]:
        for title, part in (
            ("Corpus", self._summary()),
            ("Sources", self._sources()),
            ("Duplicates", self._duplicates()),
            ("Test sets", self._tests()),
            ("Bad rows", self._bad_rows()),
            ("Lengths in tokens", self._lengths()),
            ("Records", self._records()),
        ):
            yield self._heading(title)
            yield from part
            yield ""

    def _heading(self, title: str) -> str:
        text = cut(f"── {title} " + "─" * self.width, self.width + 1).removesuffix("…")
        return f"{_BOLD}{text}{_OFF}" if self.colour else text

    def _line(self, text: str, indent: int = 0) -> str:
        return " " * indent + cut(visible(text), max(1, self.width - indent))

    def _table(
        self, rows: Sequence[Sequence[str]], *, left: int = 1, flexible: int = 0, indent: int = 2
    ) -> Iterator[str]:
        """Aligned columns, the first ones (``left``) to the left; the ``flexible`` one gives way if room is short."""
        cells = [[visible(cell) for cell in row] for row in rows]
        widths = [max(columns(row[place]) for row in cells) for place in range(len(cells[0]))]
        excess = indent + sum(widths) + 2 * (len(widths) - 1) - self.width
        widths[flexible] = max(min(8, widths[flexible]), widths[flexible] - max(0, excess))
        for number, row in enumerate(cells):
            padded = []
            for place, cell in enumerate(row):
                shown = cut(cell, widths[place])
                space = " " * (widths[place] - columns(shown))
                padded.append(shown + space if place < left else space + shown)
            line = cut(" " * indent + "  ".join(padded).rstrip(), self.width)
            yield f"{_DIM}{line}{_OFF}" if self.colour and not number else line

    def _summary(self) -> Iterator[str]:
        facts = self.facts
        yield self._line(str(facts.folder), 2)
        yield self._line(f"fingerprint {facts.fingerprint}", 2)
        yield self._line(
            f"{facts.prepared:%Y-%m-%d %H:%M}, {size(facts.disk_bytes)} on disk, vocabulary of {facts.vocab_size:,}, "
            f"views {' and '.join(facts.views)}",
            2,
        )
        yield ""
        yield from self._table([SPLIT_HEAD, *split_rows(facts)])
        yield self._line(f"truncated: texts cut at {facts.max_view_tokens:,} tokens", 2)

    def _sources(self) -> Iterator[str]:
        facts = self.facts
        head = ("source", "read", "bad rows", "dropped", "train", "held out")
        rows = [
            (
                source.name,
                f"{source.read:,}",
                f"{source.bad:,}",
                f"{sum(source.dropped.values()):,}",
                f"{source.train.records:,}",
                f"{source.heldout.records:,}",
            )
            for source in facts.sources
        ]
        yield from self._table([head, *rows])
        yield ""
        token_head = ("source", "tokens", *(f"mean {name}" for name in facts.view_titles), "truncated")
        token_rows = [(source.name, *token_cells(facts, source.both)) for source in facts.sources]
        yield from self._table([token_head, *token_rows])
        for source in facts.sources:
            if source.dropped:
                why = ", ".join(f"{number:,} {reason}" for reason, number in source.dropped.items())
                yield self._line(f"dropped of {source.name}: {why}", 2)
        for note in source_notes(facts):
            yield self._line(note, 2)

    def _duplicates(self) -> Iterator[str]:
        if not self.facts.duplicates:
            yield self._line("none dropped", 2)
            return
        yield from self._table([DUPLICATE_HEAD, *duplicate_rows(self.facts)], left=3)

    def _tests(self) -> Iterator[str]:
        facts = self.facts
        if not facts.test_sets:
            yield self._line("none named in data.decontamination.sources", 2)
            return
        rows = leak_rows(facts, _LEAKS)
        if rows:
            yield from self._table([LEAK_HEAD, *rows], left=2)
        for note in leak_notes(facts, len(rows)):
            for line in textwrap.wrap(visible(note), max(20, self.width - 2)):
                yield self._line(line, 2)

    def _bad_rows(self) -> Iterator[str]:
        facts = self.facts
        if not facts.bad_rows:
            yield self._line("none", 2)
        for row in facts.bad_rows[:_BAD_ROWS]:
            yield self._line(row, 2)
        if facts.bad > _BAD_ROWS:
            yield self._line(f"… {facts.bad:,} in all", 2)

    def _lengths(self) -> Iterator[str]:
        for histogram in self.facts.histograms:
            yield self._line(f"{histogram.title}: {figures(histogram)}", 2)
            yield from self._bars(histogram)
        yield self._line(measured(self.facts), 2)

    def _bars(self, histogram: Histogram) -> Iterator[str]:
        titles = max(len(one.title) for one in histogram.bins)
        counts = max(len(f"{one.count:,}") for one in histogram.bins)
        room = max(1, min(60, self.width - titles - counts - 8))
        most = max(one.count for one in histogram.bins)
        for one in histogram.bins:
            eighths = -(-one.count * room * 8 // most)  # what is there is seen
            bar = _BLOCKS[8] * (eighths // 8) + _BLOCKS[eighths % 8].strip()
            yield cut(f"    {one.title:>{titles}}  {one.count:>{counts},}  {bar}".rstrip(), self.width)

    def _records(self) -> Iterator[str]:
        facts = self.facts
        if not self.colour and facts.records:
            yield self._line("tokens stand between |, a space is ·", 2)
        for record in facts.records:
            yield ""
            title = self._line(record_title(record), 2)
            yield f"{_BOLD}{title}{_OFF}" if self.colour else title
            for wording in record.wordings:
                yield self._line(wording_title(wording), 4)
                yield from self._text(wording, 6)
            if record.num_wordings > len(record.wordings):
                yield self._line(f"… {record.num_wordings} texts in all", 4)
            yield self._line(layout_title(facts, record), 4)
            yield from self._branches(record.branches)

    def _text(self, wording: Wording, indent: int) -> Iterator[str]:
        """The tokens on a few lines; a token longer than a line is cut."""
        room = max(8, self.width - indent)
        lines: list[list[str]] = [[]]
        used, shown = 0, 0
        for number, token in enumerate(wording.tokens):
            text = self._token(token)
            if not self.colour and number:
                text = "|" + text
            text = cut(text, room)
            spare = len(f"… (+{wording.count - number:,} tokens)")  # must fit behind the tokens of the last line
            last = len(lines) == _LINES
            if used + columns(text) > (room - spare if last and wording.count - number > 1 else room):
                if last:
                    break
                lines.append([])
                used = 0
            lines[-1].append(self._paint(text, number))
            used += columns(text)
            shown += 1
        if shown < wording.count:
            note = f"… (+{wording.count - shown:,} tokens)"
            lines[-1:] = [lines[-1], [note]] if used + len(note) > room else [[*lines[-1], note]]
        for line in lines:
            yield " " * indent + "".join(line)

    def _token(self, token: Token) -> str:
        text = visible(token.shown)
        return text if self.colour else text.replace(" ", "·")

    def _paint(self, text: str, number: int) -> str:
        return f"{_COLOURS[number % 2]}{text}{_OFF}" if self.colour else text

    def _branches(self, branches: Sequence[Branch]) -> Iterator[str]:
        rows = [BRANCH_HEAD, *(branch_cells(self.facts, branch, _ends(branch)) for branch in branches)]
        yield from self._table(rows, left=len(BRANCH_HEAD), flexible=BRANCH_HEAD.index("tokens"), indent=6)


def _ends(branch: Branch) -> str:
    """The first two tokens and the last one of a branch."""
    shown = [cut(visible(token.shown), 12).replace(" ", "·") for token in (*branch.head, *branch.tail)]
    return "|".join(shown) if len(shown) <= 3 and not branch.is_cut else f"{shown[0]}|{shown[1]} … {shown[-1]}"
