"""Texts of a corpus as characters that are safe to print: they come from anywhere."""

import unicodedata

_SHOWN = {"\n": "↵", "\t": "⇥", "\r": "␍"}


def visible(text: str) -> str:
    """The text with every character that prints as nothing, or steers a terminal or the text's direction, spelt out."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spell(character) for character in text)


def _spell(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    # Controls, formats (bidirectional overrides, zero-width), surrogates, private and unassigned ones, separators.
    if unicodedata.category(character)[0] == "C" or unicodedata.category(character) in ("Zl", "Zp"):
        number = ord(character)
        return f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 1 << 16 else f"\\U{number:08x}"
    return character


def columns(text: str) -> int:
    """Columns that a visible text takes on a terminal."""
    return len(text) if text.isascii() else sum(map(_columns, text))


def _columns(character: str) -> int:
    if unicodedata.category(character) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def cut(text: str, width: int) -> str:
    """The text, or as much of its beginning as fits with an ellipsis."""
    if columns(text) <= width:
        return text
    kept, used = [], 1
    for character in text:
        used += _columns(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + "…" if width else ""
