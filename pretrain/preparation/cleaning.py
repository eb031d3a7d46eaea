"""Cleaning of single records: Unicode normalisation, and filters that know no language."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from pretrain.config.data import CleaningConfig

_LINES = re.compile("\r\n?|\x85")
_SPACES = re.compile("[\x0b\x0c\x1c-\x1f]")
_CONTROLS = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u200b\u2060\ufeff]")


def clean_text(text: str, config: CleaningConfig) -> str:
    """The text as it will be tokenised."""
    if config.controls == "strip":
        text = _CONTROLS.sub("", _SPACES.sub(" ", _LINES.sub("\n", text)))
    if config.unicode != "none" and not text.isascii():
        text = unicodedata.normalize(config.unicode, text)
    return " ".join(text.split()) if config.spaces == "collapse" else text


@dataclass(frozen=True)
class Usable:
    """The usable wordings of a record.

    Attributes:
        first: Wordings of the first view.
        second: Of the second view; empty if both views are one.
        reason: Why the record is dropped; None: it is kept. The wordings are then those that were given.
        dropped: For each wording that was left out, why.
    """

    first: Sequence[str]
    second: Sequence[str]
    reason: str | None
    dropped: tuple[str, ...]


class Filter:
    """Leaves out what is dropped for its form: wordings, or the record if a view has none left."""

    reasons = ("empty", "short", "long", "length_ratio", "few_letters", "repetitive", "equal_views", "one_wording")

    def __init__(self, config: CleaningConfig) -> None:
        self.config = config

    def __call__(self, first: Sequence[str], second: Sequence[str]) -> Usable:
        """Finds the usable wordings of a record.

        Args:
            first: Wordings of the first view.
            second: Wordings of the second view; empty if both views are one.
        """
        dropped: list[str] = []
        sides: list[list[str]] = []
        for texts in (first, second):
            problems = [self._problem(text) for text in texts]
            sides.append([text for text, reason in zip(texts, problems, strict=True) if reason is None])
            dropped += [reason for reason in problems if reason]
            if texts and not sides[-1]:
                return Usable(first, second, next(filter(None, problems)), ())
        one, other = sides
        if second:
            reason = self._drop_equal(one, other, dropped) or self._drop_unlike(one, other, dropped)
        else:
            one = self._alike(one, dropped)
            reason = None if len(one) > 1 else dropped[0] if dropped else "one_wording"
        return Usable(first, second, reason, ()) if reason else Usable(one, other, None, tuple(dropped))

    def _problem(self, text: str) -> str | None:
        config = self.config
        if not text or text.isspace():
            return "empty"
        if len(text) < config.min_chars:
            return "short"
        if config.max_chars is not None and len(text) > config.max_chars:
            return "long"
        if config.min_letter_share and _letter_share(text) < config.min_letter_share:
            return "few_letters"
        return "repetitive" if config.max_repetition < 1 and repetition(text) > config.max_repetition else None

    def _drop_equal(self, first: list[str], second: list[str], dropped: list[str]) -> str | None:
        """Takes wordings that both views have out of one of them; says why the record goes, if a view has no other."""
        if not self.config.distinct_views:
            return None
        for text in [text for text in first if text in second]:
            view = second if len(second) > 1 else first
            if len(view) == 1:
                return "equal_views"
            view.remove(text)
            dropped.append("equal_views")
        return None

    def _drop_unlike(self, first: list[str], second: list[str], dropped: list[str]) -> str | None:
        """Takes out the wordings of one view whose length does not suit the other's; all: the record goes."""
        if self.config.max_length_ratio is None:
            return None
        for view, others in ((second, first), (first, second)):
            alike = [text for text in view if all(self._is_alike(text, other) for other in others)]
            if alike:
                dropped += ["length_ratio"] * (len(view) - len(alike))
                view[:] = alike
                return None
        return "length_ratio"

    def _alike(self, texts: list[str], dropped: list[str]) -> list[str]:
        """The wordings of one view whose lengths suit those before them."""
        kept: list[str] = []
        for text in texts:
            if all(self._is_alike(text, other) for other in kept):
                kept.append(text)
            else:
                dropped.append("length_ratio")
        return kept

    def _is_alike(self, one: str, other: str) -> bool:
        short, long = sorted((len(one), len(other)))
        return self.config.max_length_ratio is None or long <= self.config.max_length_ratio * short


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
