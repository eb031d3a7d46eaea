"""Descriptions of lines and the regexes that match them, made up by a grammar; every pair is checked by automata.

A meaning is drawn, worded, and spelled as a regex. The regex is then parsed, and its automaton is run beside machines
that read lines by the meaning alone: both have to say the same about every line. A meaning that holds for no line or
for every line, or one of whose parts changes nothing, is drawn again.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final, Literal

from pydantic import Field, field_validator

from pretrain.sources.files import Files
from pretrain.sources.part import Part
from pretrain.sources.record import Record, Source
from pretrain.sources.synthetic.regex_grammar.check import is_sound
from pretrain.sources.synthetic.regex_grammar.machine import ways
from pretrain.sources.synthetic.regex_grammar.meaning import (
    KINDS,
    Begins,
    Condition,
    Consists,
    Denied,
    Ends,
    InOrder,
    Joined,
    Single,
    SomeWord,
    Thing,
    Times,
)
from pretrain.sources.synthetic.regex_grammar.wording import word
from pretrain.sources.synthetic.reviews import Draw

PART_RECORDS: Final = 2_000
_BYTES: Final = 120
"""A record's usual size."""

# None overlaps itself, so that "three times" has one meaning.
_LISTED: Final = (
    "acorn amber basil beach brook button candle cedar cliff cloud copper cork crow dawn drum fern field flag flint "
    "fox frost garlic glove grape harbor hazel heron ink ivy jar kettle ladle lamp lark lemon maple marsh mint moth "
    "nail needle oak owl paper pearl pine plum quartz reed rope salt sand silk slate snow spoon stone storm tea "
    "tiger tulip vine wagon wheat wick wolf wood yarn zinc Anna Berlin Friday Jakob Maria Oslo Paris USA Venus id no "
    "ok px v2 x9 A7 B12 Q4 R2D 10 42 365 75 007"
)
TEXTS: Final = tuple(_LISTED.split())
_CONSONANTS: Final = "bcdfghjklmnpqrstvwxyz"
_VOWELS: Final = "aeiou"
_ANY: Final = Thing("kind", "character")
_LETTERS_OF_WORDS: Final = tuple(kind for kind in KINDS if kind != "character")
_COMMON_KINDS: Final = ("digit", "capital", "small", "letter", "vowel")


# ------------------------------------------------------------------------------------------------------------- drawing


def _text(draw: Draw) -> Thing:
    if draw.chance(0.6):
        return Thing("text", draw.pick(TEXTS))
    made = draw.pick(_CONSONANTS) + draw.pick(_VOWELS)
    while draw.chance(0.6) and len(made) < 6:
        made += draw.pick(_CONSONANTS) + draw.pick(_VOWELS)
    last = draw.pick(_CONSONANTS)
    return Thing("text", made if last in made else made + last)


def _single_character(draw: Draw) -> Thing:
    if draw.chance(0.3):
        first, last = draw.pick((("a", "z"), ("a", "z"), ("A", "Z"), ("0", "9")))
        places = sorted(draw.sample(range(ord(first), ord(last) + 1), 2))
        return Thing("range", chr(places[0]) + chr(places[1]))
    return Thing("kind", draw.pick(_COMMON_KINDS if draw.chance(0.7) else _LETTERS_OF_WORDS))


def _plain(draw: Draw) -> Thing:
    return _text(draw) if draw.chance(0.5) else _single_character(draw)


def _plain_or_either(draw: Draw) -> Thing:
    if not draw.chance(0.15):
        return _plain(draw)
    first, second = _plain(draw), _plain(draw)
    while not _apart(first, second):
        first, second = _plain(draw), _plain(draw)
    return Thing("either", parts=(first, second))


def _apart(first: Thing, second: Thing) -> bool:
    """Tell whether "either of them" says more than one of them does, wherever it is looked for."""
    (one,), (other,) = ways(first), ways(second)
    if len(one) > 1 and len(other) > 1:
        return first.name not in second.name and second.name not in first.name
    some, others = (set("".join(place or "" for place in way)) for way in (one, other))
    if len(one) == len(other):
        return not some <= others and not others <= some
    return not some & others


def _thing(draw: Draw) -> Thing:
    if draw.chance(0.2):
        return Thing("chain", parts=(_plain(draw), *(_ANY,) * draw.pick((0, 0, 0, 1, 2)), _plain(draw)))
    return _plain_or_either(draw)


def _bounds(draw: Draw) -> tuple[int, int | None]:
    low = draw.pick((2, 2, 3, 3, 4, 5))
    return draw.pick(((low, None), (low, None), (low, low), (low, low + draw.pick((1, 2)))))


def _single(draw: Draw) -> Single:
    match draw.pick(("in order",) * 6 + ("times",) * 4 + ("begins",) * 4 + ("ends",) * 4 + ("consists", "word") * 3):
        case "in order":
            count = draw.pick((1, 1, 1, 2, 2, 3))
            return InOrder((_thing(draw),) if count == 1 else tuple(_plain_or_either(draw) for _ in range(count)))
        case "times":
            low, high = _bounds(draw)
            return Times(_plain_or_either(draw), *((0, low) if draw.chance(0.2) else (low, high)))
        case "begins":
            if draw.chance(0.15):
                place = draw.pick((1, 1, 2, 3))
                return Begins(Thing("chain", parts=(*(_ANY,) * place, _single_character(draw))))
            return Begins(_thing(draw))
        case "ends":
            if draw.chance(0.15):
                return Ends(Thing("chain", parts=(_single_character(draw), *(_ANY,) * draw.pick((1, 1, 2)))))
            return Ends(_thing(draw))
        case "consists":
            low, high = _bounds(draw) if draw.chance(0.75) else (1, None)
            return Consists(_ANY if low > 1 and draw.chance(0.25) else _plain_or_either(draw), low, high)
        case _:
            if draw.chance(0.5):
                return SomeWord(Begins(_plain(draw)) if draw.chance(0.5) else Ends(_plain(draw)))
            if draw.chance(0.6):
                return SomeWord(Consists(_text(draw), 1, 1))
            return SomeWord(Consists(_single_character(draw), *_bounds(draw)))


def draw_condition(draw: Draw, parts: int) -> Condition:
    """Draw a condition joined from that many single ones (one to three), each as likely to be denied."""
    if parts == 1:
        single = _single(draw)
        at_most = isinstance(single, Times) and single.low == 0  # hard to read when denied
        return Denied(single) if draw.chance(0.15) and not at_most else single
    if parts == 2 and draw.chance(0.12):
        return Denied(Joined(draw.chance(0.5), (_single(draw), _single(draw))))
    every = draw.chance(0.6)
    if parts == 3 and draw.chance(0.4):
        inner = Joined(not every, (draw_condition(draw, 1), draw_condition(draw, 1)))
        return Joined(every, (_single(draw), inner))
    return Joined(every, tuple(draw_condition(draw, 1) for _ in range(parts)))


# -------------------------------------------------------------------------------------------------------------- source


class RegexGrammarSource(Source):
    """Descriptions of lines with their regexes, made up by a grammar; needs no files and no network."""

    type: Literal["regex_grammar"] = "regex_grammar"
    count: int = Field(20_000, ge=1, description="Number of records.")
    seed: int = Field(0, description="Selects the corpus; record i depends on the seed, max_parts and i only.")
    max_parts: int = Field(3, ge=1, le=3, description="Most conditions that one description joins.")
    views: tuple[str, str] = Field(("text", "code"), description="Names of the views: description, regex.")

    @field_validator("views")
    @classmethod
    def _names_are_usable(cls, views: tuple[str, str]) -> tuple[str, str]:
        if not all(views) or views[0] == views[1]:
            raise ValueError(f"expected two different, non-empty names, got {list(views)}; rename a view")
        return views

    def meaning(self, index: int) -> Condition:
        """Return what record ``index`` (from 0) says."""
        attempt = 0
        while True:
            draw = Draw(f"regex_grammar/{self.seed}/{self.max_parts}/{index}/meaning/{attempt}")
            condition = draw_condition(draw, min(draw.pick((1, 1, 2, 2, 2, 3)), self.max_parts))
            if is_sound(condition, condition.regex):
                return condition
            attempt += 1

    def record(self, index: int) -> Record:
        """Return record ``index`` (from 0); the same on every call, platform and Python version."""
        condition = self.meaning(index)
        text = word(Draw(f"regex_grammar/{self.seed}/{self.max_parts}/{index}/text"), condition)
        views = dict(zip(self.views, ((text,), (condition.regex,)), strict=True))
        # One regular expression stays on one side of the held-out split.
        return Record(views=views, file=self.type, line=index + 1, group=condition.regex)

    def view_names(self) -> tuple[str, ...]:
        """Return the views that every record has."""
        return self.views

    def code_views(self) -> tuple[str, ...]:
        """The regular expression."""
        return self.views[1:]

    def parts(self, files: Files) -> Sequence[Part]:
        """Return ranges of 2,000 records; reads no file."""
        return [
            self._part(start, min(start + PART_RECORDS, self.count)) for start in range(0, self.count, PART_RECORDS)
        ]

    def read(self, part: Part) -> Iterator[Record]:
        """Yield the records of a part in order; the same on every call."""
        for index in range(part.start, part.stop if part.stop is not None else self.count):
            yield self.record(index)

    def _part(self, start: int, stop: int) -> Part:
        said = json.dumps([self.seed, self.max_parts, self.views, start, stop, _digest()])
        fingerprint = hashlib.sha256(said.encode()).hexdigest()
        return Part(self.type, fingerprint, _BYTES * (stop - start), start, stop, first_line=start + 1)


@cache
def _digest() -> str:
    """Return a digest of sample records: it changes when the grammar does."""
    source = RegexGrammarSource()
    texts = (text for index in range(100) for view in source.record(index).views.values() for text in view)
    return hashlib.sha256("\0".join(texts).encode()).hexdigest()
