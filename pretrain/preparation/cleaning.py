"""Cleaning of single records: Unicode normalisation, and filters that know no language."""

import re
import unicodedata
from collections.abc import Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

_LINES = re.compile("\r\n?|\x85")
_SPACES = re.compile("[\x0b\x0c\x1c-\x1f]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")


class CleaningConfig(BaseModel):
    """What is done to texts, and which records are dropped for their form; every dropped one is counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unicode: Literal["NFC", "NFKC", "none"] = Field(
        "NFC", description="Unicode normalisation of all texts; none: texts are kept byte for byte."
    )
    controls: Literal["strip", "keep"] = Field(
        "strip",
        description="strip: control characters (not tab and newline) and zero-width spaces go; other line ends become "
        "newlines.",
    )
    spaces: Literal["keep", "collapse"] = Field(
        "keep", description="collapse: runs of white space become one space (not for code)."
    )
    distinct_views: bool = Field(True, description="Drop a record whose two views are equal: it teaches nothing.")
    min_chars: int = Field(1, ge=1, description="Drop a record with a shorter view.")
    max_chars: int | None = Field(None, ge=1, description="Drop a record with a longer view; null: truncation only.")
    max_length_ratio: float | None = Field(
        None, ge=1, description="Drop a record whose longer view has over so many times the characters of the shorter."
    )
    min_letter_share: float = Field(
        0.0, ge=0, le=1, description="Drop a record with a view in which letters and digits are a smaller share."
    )
    max_repetition: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Drop a record with a view in which a larger share of the words belongs to repeated 5-grams.",
    )

    def text_settings(self) -> dict[str, str]:
        """Those settings that change texts: the rest only drops records."""
        return {"unicode": self.unicode, "controls": self.controls, "spaces": self.spaces}


def clean_text(text: str, config: CleaningConfig) -> str:
    """The text as it will be tokenised."""
    if config.controls == "strip":
        text = _CONTROLS.sub("", _SPACES.sub(" ", _LINES.sub("\n", text)))
    if config.unicode != "none" and not text.isascii():
        text = unicodedata.normalize(config.unicode, text)
    return " ".join(text.split()) if config.spaces == "collapse" else text


class Filter:
    """Says why a record is dropped for its form."""

    reasons = ("empty", "short", "long", "length_ratio", "few_letters", "repetitive", "equal_views", "one_wording")

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config

    def __call__(self, first: Sequence[str], second: Sequence[str]) -> str | None:
        """The first reason that applies, or None.

        Args:
            first: Wordings of the first view.
            second: Wordings of the second view; empty if both views are one.
        """
        config = self.config
        texts = (*first, *second)
        sizes = [len(text) for text in texts]
        shortest, longest = min(sizes), max(sizes)
        if not shortest or not all(text.strip() for text in texts):
            return "empty"
        if shortest < config.min_chars:
            return "short"
        if config.max_chars is not None and longest > config.max_chars:
            return "long"
        if config.max_length_ratio is not None and longest > config.max_length_ratio * shortest:
            return "length_ratio"
        if config.min_letter_share and any(_letter_share(text) < config.min_letter_share for text in texts):
            return "few_letters"
        if config.max_repetition < 1 and any(repetition(text) > config.max_repetition for text in texts):
            return "repetitive"
        if second:
            return "equal_views" if config.distinct_views and not set(first).isdisjoint(second) else None
        return "one_wording" if len(first) < 2 else None


def _letter_share(text: str) -> float:
    return sum(map(str.isalnum, text)) / len(text)


def repetition(text: str, size: int = 5) -> float:
    """Share of the words that stand in a ``size``-gram which occurs more than once; 0 to 1."""
    words = text.split()
    seen: dict[tuple[str, ...], int] = {}
    repeated = bytearray(len(words))
    for start in range(len(words) - size + 1):
        gram = tuple(words[start : start + size])
        before = seen.setdefault(gram, start)
        if before != start:
            repeated[before : before + size] = repeated[start : start + size] = b"\1" * size
    return sum(repeated) / len(words) if words else 0.0
