"""The form in which words are compared where case, punctuation and spaces do not count: one for all tasks."""

import string
import unicodedata


def folded(text: str) -> str:
    """Text in which letters of either case, and characters of either width or composition, are the same.

    Superscripts, subscripts and fractions stay what they are: 10² is not 102.
    """
    if text.isascii():
        return text.casefold()
    plain = "".join(map(_compatible, unicodedata.normalize("NFC", text)))
    return unicodedata.normalize("NFC", plain.casefold())


def is_punctuation(character: str) -> bool:
    """Whether a character is punctuation: of Unicode, or one of the symbols that ASCII counts as such."""
    return character in string.punctuation or (not character.isascii() and unicodedata.category(character)[0] == "P")


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
    if unicodedata.decomposition(character).startswith(("<super>", "<sub>", "<fraction>")):
        return character
    return unicodedata.normalize("NFKC", character)
