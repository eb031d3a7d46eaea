"""The form in which words are compared where case, punctuation and spaces do not count: one for all tasks."""

import string
import unicodedata
from typing import Final

_PUNCTUATION: Final = frozenset(string.punctuation + "❛❜❝❞❟❠")
_CATEGORIES: Final = frozenset({"Pc", "Pd", "Pe", "Pf", "Pi", "Po", "Ps", "Cf", "Sk"})
"""Of Unicode: punctuation, format characters such as zero-width spaces, and accents that stand alone."""


_KEPT: Final = ("<super>", "<sub>", "<fraction>", "<compat> 0020 ")
"""Decompositions that are not made: the last would turn an accent that stands alone into a space and an accent."""


def folded(text: str) -> str:
    """Text in which letters of either case, and characters of either width or composition, are the same.

    Superscripts, subscripts and fractions stay what they are: 10² is not 102.
    """
    if text.isascii():
        return text.casefold()
    plain = "".join(map(_compatible, unicodedata.normalize("NFC", text)))
    return unicodedata.normalize("NFC", plain.casefold())


def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation, invisible, or a symbol that is used as a quote."""
    return character in _PUNCTUATION or unicodedata.category(character) in _CATEGORIES


def without_punctuation_around(text: str) -> str:
    """Text without punctuation and white space at both ends."""
    start, end = 0, len(text)
    while start < end and _is_outside(text[start]):
        start += 1
    while start < end and _is_outside(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_outside(character: str) -> bool:
    return character.isspace() or is_punctuation(character)


def _compatible(character: str) -> str:
    if unicodedata.decomposition(character).startswith(_KEPT):
        return character
    return unicodedata.normalize("NFKC", character)
