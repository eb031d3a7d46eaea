"""The forms by which texts are compared, for duplicates, test sets and the held-out split.

Texts of natural language are equal if they are so in NFKC, lower case and single spaces. For code that is wrong:
``[A-Z]`` is not ``[a-z]``. So views of code are compared as they are written.
"""

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import TypeAlias

Forms: TypeAlias = tuple[str, ...]
"""Forms of one text. The first is that of its view; two texts of any views are equal if they share a form."""

_FOLDED, _WRITTEN = "f", "w"  # the first letter of a form


def matching_form(text: str) -> str:
    """The form in which texts of natural language are compared: NFKC, lower case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())


@dataclass(frozen=True)
class TextComparison:
    """Which texts count as equal.

    Attributes:
        views: The two views that are used.
        as_written: Those of them that are compared as written, the others in their ``matching_form``. A text of the
            one kind and one of the other are equal if they are so as written.
    """

    views: tuple[str, str]
    as_written: frozenset[str]

    @property
    def key_count(self) -> int:
        """Keys of a pair: where its views are compared differently, one as it stands, and one for swapped pairs."""
        return 2 if len({view in self.as_written for view in self.views}) == 2 else 1

    def forms(self, view: str, text: str) -> Forms:
        """The forms of a text of a view."""
        if view in self.as_written:
            return (_WRITTEN + text,)
        folded = _FOLDED + matching_form(text)
        return (folded, _WRITTEN + text) if self.as_written else (folded,)

    def sides(self, first: Sequence[str], second: Sequence[str]) -> tuple[list[Forms], list[Forms]]:
        """The forms of all wordings of a record; no second view: both are one."""
        return [self.forms(self.views[0], text) for text in first], [self.forms(self.views[1], text) for text in second]

    def pair_keys(self, first: Forms, second: Forms) -> list[str]:
        """The keys of a pair, ``key_count`` of them; equal pairs share one, also if one is the other swapped."""
        if self.key_count == 1:
            return ["\1".join(sorted((first[0], second[0])))]
        return ["\1".join((first[0], second[0])), "\1".join(sorted((first[-1], second[-1])))]

    def pairs(self, first: Sequence[Forms], second: Sequence[Forms]) -> Iterator[list[str]]:
        """Yields the keys of every pair that a record can give."""
        for one, other in product(first, second) if second else combinations(dict.fromkeys(first), 2):
            yield self.pair_keys(one, other)

    def record_keys(self, first: Sequence[Forms], second: Sequence[Forms]) -> bytes:
        """The keys of all wordings of a record together, 16 bytes each."""
        one, other = (tuple("\0".join(forms[which] for forms in side) for which in (0, -1)) for side in (first, second))
        return b"".join(_digest(key, 16) for key in self.pair_keys(one, other))


def draw_key(first: Sequence[str], second: Sequence[str]) -> int:
    """What decides on the side of a record without a group: equal records, whichever the comparison, have the same."""
    texts = ("\0".join(map(matching_form, side)) for side in (first, second))
    return int.from_bytes(_digest("\1".join(sorted(texts)), 16)[:8], "little")


def words(form: Forms) -> str:
    """The words of a text in the form of its view, with single spaces."""
    return " ".join(form[0][1:].split())


def grams(forms: Forms, size: int) -> Iterator[str]:
    """Yields the n-grams of every form of a text; the whole form if it has no more words than that."""
    for form in forms:
        words_of_form = form[1:].split()
        if len(words_of_form) <= size:
            if words_of_form:
                yield form
            continue
        for start in range(len(words_of_form) - size + 1):
            yield form[0] + " ".join(words_of_form[start : start + size])


def _digest(text: str, size: int) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=size).digest()
