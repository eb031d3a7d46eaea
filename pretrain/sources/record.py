"""The record: what every source yields."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Record:
    """One meaning in two or more wordings.

    Attributes:
        views: View name to text; all texts are non-empty.
        place: Where it was read, for error messages: ``file:line`` or ``reviews:17``.
        label: A class for probing where the source knows one (the review grammar: 0 negative, 1 positive).
    """

    views: Mapping[str, str]
    place: str
    label: int | None = None
