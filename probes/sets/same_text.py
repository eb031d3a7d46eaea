"""When two texts of labelled sets count as the same."""

import re

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def same_text_key(text: str) -> str:
    """A key shared by texts that differ only in case, space and punctuation; empty without letters and digits."""
    return _NEITHER_LETTER_NOR_DIGIT.sub("", text.casefold())
