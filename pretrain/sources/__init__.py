"""Sources: where multi-view records come from. A new source is a subclass of ``record.Source`` and a line here."""

from typing import Annotated

from pydantic import Field

from pretrain.sources.delimited import DelimitedSource
from pretrain.sources.docstrings import DocstringsSource
from pretrain.sources.files import Files
from pretrain.sources.hub import HubSource
from pretrain.sources.jsonl import JsonlSource
from pretrain.sources.messages import MessagesSource
from pretrain.sources.parallel import ParallelSource
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Item, LeftOut, Record, Source
from pretrain.sources.synthetic.regex_grammar import RegexGrammarSource
from pretrain.sources.synthetic.reviews import ReviewsSource
from pretrain.sources.tables import TableSource

SourceConfig = Annotated[
    JsonlSource
    | MessagesSource
    | DelimitedSource
    | TableSource
    | ParallelSource
    | HubSource
    | DocstringsSource
    | ReviewsSource
    | RegexGrammarSource,
    Field(discriminator="type"),
]

__all__ = [
    "BadRow",
    "DelimitedSource",
    "DocstringsSource",
    "Files",
    "HubSource",
    "Item",
    "JsonlSource",
    "LeftOut",
    "MessagesSource",
    "ParallelSource",
    "Part",
    "Record",
    "RegexGrammarSource",
    "ReviewsSource",
    "Source",
    "SourceConfig",
    "TableSource",
]
