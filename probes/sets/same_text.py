"""When two texts of labelled sets are the same."""

import re

_NEITHER_LETTER_NOR_DIGIT = re.compile(r"[\W_]+")


def same_text_key(text: str) -> str:
    """What texts have in common that differ in case, space and punctuation only; empty without letters and digits."""
    return _NEITHER_LETTER_NOR_DIGIT.sub("", text.casefold())
