r"""The syntax of regexes with intersection and complement, as in NL-RX: text in, a small tree out.

From loosest to tightest: ``a|b`` union, ``a&b`` intersection, ``ab`` sequence, ``a*`` ``a+`` ``a?`` ``a{2}`` ``a{2,}``
``a{2,5}`` repeats, ``~a`` complement (``~a*`` is ``(~a)*``). Atoms: ``( )`` groups, ``.`` any character, ``[a-z]`` and
``[^a-z]`` classes, ``\d \w \s \D \W \S`` classes (ASCII), ``\b`` a word boundary and ``\B`` its opposite, any other
character for itself; a special character is written with a backslash. Nothing between two bars is the empty string.

What is left out, since it has no single meaning here or describes no regular language, is an error: anchors, lazy and
possessive repeats, back references, look-around and flags.
"""

import string
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, TypeAlias

LAST_CHARACTER: Final = 0x10FFFF
MAX_NESTING: Final = 60

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""A set of characters: code points from-to (inclusive), in order, neither overlapping nor touching."""


class RegexSyntaxError(ValueError):
    """The text is no regex of this language; the message begins with the place, ``column N`` from 1."""


@dataclass(frozen=True, slots=True)
class Characters:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Boundary:
    """An empty stretch at a word boundary (``at``), or at a place that is none."""

    at: bool


@dataclass(frozen=True, slots=True)
class Sequence:
    """The items one after another; no item: the empty string."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Either:
    """What at least one of the items matches."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Both:
    """What every item matches."""

    items: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Not:
    """What the item does not match."""

    item: "Expression"


@dataclass(frozen=True, slots=True)
class Repeat:
    """The item ``low`` to ``high`` times; None: without an upper bound."""

    item: "Expression"
    low: int
    high: int | None


Expression: TypeAlias = Characters | Boundary | Sequence | Either | Both | Not | Repeat


def ranges(pairs: list[tuple[int, int]]) -> Ranges:
    """Put from-to pairs in order and join those that overlap or touch."""
    joined: list[tuple[int, int]] = []
    for low, high in sorted(pairs):
        if joined and low <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(high, joined[-1][1]))
        else:
            joined.append((low, high))
    return tuple(joined)


def without(some: Ranges) -> Ranges:
    """Return every character of a line that is not in ``some``: all of Unicode but the line break."""
    rest, after = [], 0
    for low, high in ranges([*some, (ord("\n"), ord("\n"))]):
        if after < low:
            rest.append((after, low - 1))
        after = high + 1
    return (*rest, (after, LAST_CHARACTER)) if after <= LAST_CHARACTER else tuple(rest)


def characters(text: str) -> Ranges:
    """Return the set of the characters of ``text``."""
    return ranges([(ord(character), ord(character)) for character in text])


ANY: Final = without(())
WORD: Final = characters(string.ascii_letters + string.digits + "_")
_CLASSES: Final = {"d": characters(string.digits), "w": WORD, "s": characters(" \t\r\f\v")}
_CLASSES.update({name.upper(): without(inside) for name, inside in list(_CLASSES.items())})
_SPECIAL: Final = frozenset(r"()[]{}|&~*+?.\^$")
_REPEATS: Final[dict[str, tuple[int, int | None]]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}


def parse(text: str) -> Expression:
    """Parse a regex.

    Raises:
        RegexSyntaxError: The text is none, or its groups lie more than 60 deep.
    """
    return _Parser(text).whole()


class _Parser:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._depth = 0

    def whole(self) -> Expression:
        tree = self._either()
        if self._at < len(self._text):
            raise self._error("')' without '('")
        return tree

    def _error(self, problem: str) -> RegexSyntaxError:
        return RegexSyntaxError(f"column {self._at + 1}: {problem}: {self._text!r}")

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _take(self, expected: str) -> bool:
        parsed = self._peek() == expected
        self._at += parsed
        return parsed

    def _next(self, inside: str) -> str:
        character = self._peek()
        if not character:
            raise self._error(f"ends within {inside}")
        self._at += 1
        return character

    def _list(self, item: Callable[[], Expression], sign: str) -> list[Expression]:
        items = [item()]
        while self._take(sign):
            items.append(item())
        return items

    def _either(self) -> Expression:
        items = self._list(self._both, "|")
        return items[0] if len(items) == 1 else Either(tuple(items))

    def _both(self) -> Expression:
        items = self._list(self._sequence, "&")
        return items[0] if len(items) == 1 else Both(tuple(items))

    def _sequence(self) -> Expression:
        items: list[Expression] = []
        while self._peek() not in ("", "|", "&", ")"):
            items.append(self._repeated())
        return items[0] if len(items) == 1 else Sequence(tuple(items))

    def _repeated(self) -> Expression:
        item = self._atom()
        bounds = self._bounds()
        if bounds is None:
            return item
        if self._peek() in ("*", "+", "?", "{"):
            raise self._error("a repeat of a repeat; put the inner one in parentheses")
        return Repeat(item, *bounds)

    def _bounds(self) -> tuple[int, int | None] | None:
        sign = self._peek()
        if sign in _REPEATS:
            self._at += 1
            return _REPEATS[sign]
        if not self._take("{"):
            return None
        low = high = self._number()
        if self._take(","):
            high = None if self._peek() == "}" else self._number()
        if not self._take("}"):
            raise self._error("expected {n}, {n,} or {n,m}")
        if low is None or (high is not None and high < low):
            raise self._error("the upper bound of the repeat is below the lower one")
        return low, high

    def _number(self) -> int | None:
        start = self._at
        while self._peek() in tuple(string.digits):
            self._at += 1
        if not 0 < self._at - start < 10:
            raise self._error("expected a number of one to nine digits")
        return int(self._text[start : self._at])

    def _atom(self) -> Expression:
        character = self._next("an expression")
        if character == "~":
            return Not(self._nested(self._atom))
        if character == "(":
            tree = self._nested(self._either)
            if not self._take(")"):
                raise self._error("'(' without ')'")
            return tree
        if character == "[":
            return Characters(self._class())
        if character == ".":
            return Characters(ANY)
        if character == "\\" and self._peek() in ("b", "B"):
            return Boundary(self._next("an escape") == "b")
        if character == "\\":
            return Characters(self._escaped())
        if character in _SPECIAL or character == "\n":
            self._at -= 1
            raise self._error(f"{character!r} has no meaning here; as a character it is written with a backslash")
        return Characters(characters(character))

    def _nested(self, item: Callable[[], Expression]) -> Expression:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise self._error(f"more than {MAX_NESTING} groups within each other")
        tree = item()
        self._depth -= 1
        return tree

    def _escaped(self) -> Ranges:
        character = self._next("an escape")
        if character in _CLASSES:
            return _CLASSES[character]
        if character == "t":
            return characters("\t")
        if character.isalnum() or character == "\n":
            self._at -= 1
            raise self._error(f"'\\{character}' is not part of this language")
        return characters(character)

    def _class(self) -> Ranges:
        opposite = self._take("^")
        parsed: list[tuple[int, int]] = []
        while not self._take("]"):
            first = self._member()
            if self._peek() == "-" and self._text[self._at + 1 : self._at + 2] != "]":
                self._at += 1
                last = self._member()
                if len(first) != 1 or len(last) != 1 or first[0][0] != first[0][1] or first[0][0] > last[0][0]:
                    raise self._error("the range of characters is empty or has a class at an end")
                parsed.append((first[0][0], last[0][1]))
            else:
                parsed += first
        if not parsed:
            raise self._error("a class without characters")
        # A range may span the line break, which no line has.
        return without(ranges(parsed)) if opposite else without(without(ranges(parsed)))

    def _member(self) -> Ranges:
        character = self._next("a class")
        return self._escaped() if character == "\\" else characters(character)
