"""Sources: where multi-view records come from. A new source is one file and one line here.

A source is a frozen pydantic model with a literal ``type``, ``records() -> Iterator[Record]``,
``view_names() -> tuple[str, ...]`` and ``fingerprint() -> str`` (changes whenever the records may change).
"""

from typing import Annotated

from pydantic import Field

from pretrain.sources.jsonl import JsonlSource
from pretrain.sources.messages import MessagesSource
from pretrain.sources.record import Record
from pretrain.sources.reviews import ReviewsSource

SourceConfig = Annotated[JsonlSource | MessagesSource | ReviewsSource, Field(discriminator="type")]

__all__ = ["JsonlSource", "MessagesSource", "Record", "ReviewsSource", "SourceConfig"]
