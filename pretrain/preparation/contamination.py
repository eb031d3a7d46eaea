"""Test texts in the training data: finding, counting and dropping them.

Texts are compared as :func:`matching_form` gives them (NFKC, lower case, single spaces). A test set is held in memory.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from pretrain.preparation.reading import ReadPart, read_batches, wordings
from pretrain.sources import SourceConfig

KINDS = ("pair", "first", "second", "any", "ngram")
"""How a test record was found: its pair; its first view among first views, its second among second views; one of its
views anywhere; an n-gram of one of its views anywhere."""


class DecontaminationConfig(BaseModel):
    """Test sets whose records must not be trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceConfig, ...] = Field((), description="The test sets; one of the views is enough.")
    match: Literal["pair", "view", "ngram"] = Field(
        "ngram",
        description="A training record is contaminated if its pair is a test pair (pair); one of its views is a test "
        "text (view); or one shares an n-gram of words with a test text or, if shorter, is equal to one (ngram).",
    )
    ngram: int = Field(13, ge=2, description="Words of an n-gram.")
    views: tuple[str, ...] | None = Field(
        None, description="Views of training records that match view and ngram look at; null: both."
    )
    action: Literal["drop", "report"] = Field(
        "drop", description="drop contaminated training records, or only count them in the manifest."
    )


def matching_form(text: str) -> str:
    """The form in which texts are compared: NFKC, lower case, single spaces."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return " ".join(text.lower().split())


@dataclass
class EvaluationSet:
    """The records of one test set, by what of them could be found.

    Attributes:
        name: Of its source.
        items: Distinct items per kind: pairs, first texts, second texts, texts, and texts again for n-grams.
        pairs: Pair to number.
        views: For each view, text to number.
        texts: Text of any view to number.
        grams: n-gram, or whole shorter text, to the numbers of the texts that hold it.
    """

    name: str
    pairs: dict[tuple[str, str], int] = field(default_factory=dict)
    views: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    texts: dict[str, int] = field(default_factory=dict)
    grams: dict[str, list[int]] = field(default_factory=dict)

    @property
    def items(self) -> dict[str, int]:
        """Number of distinct items per kind."""
        sizes = (len(self.pairs), len(self.views[0]), len(self.views[1]), len(self.texts), len(self.texts))
        return dict(zip(KINDS, sizes, strict=True))


class EvaluationIndex:
    """All test sets, and what a training record shares with them."""

    def __init__(self, config: DecontaminationConfig, views: tuple[str, str]) -> None:
        self.config = config
        self.views = views
        self.sets: list[EvaluationSet] = []
        self._every_text: set[str] = set()
        self._every_gram: set[str] = set()

    def start_set(self, name: str) -> None:
        """The records added from now on belong to this set."""
        self.sets.append(EvaluationSet(name))

    def add(self, views: Mapping[str, Sequence[str]]) -> None:
        """Adds one test record, with any of the views."""
        found = self.sets[-1]
        sides = [[matching_form(text) for text in views.get(name, ())] for name in self.views]
        for side, texts in enumerate(sides):
            for text in texts:
                found.views[side].setdefault(text, len(found.views[side]))
                if text not in found.texts:
                    number = found.texts[text] = len(found.texts)
                    self._every_text.add(text)
                    for gram in ngrams(text, self.config.ngram):
                        found.grams.setdefault(gram, []).append(number)
                        self._every_gram.add(gram)
        for first in sides[0]:
            for second in sides[1]:
                found.pairs.setdefault((first, second), len(found.pairs))

    def add_parts(self, tests: Sequence[tuple[str, Sequence[ReadPart]]]) -> None:
        """Adds test sets as they were read: name and parts of each."""
        for name, parts in tests:
            self.start_set(name)
            for part in parts:
                for batch in read_batches(part.path, None):
                    views = {
                        column.removeprefix("view "): wordings(array)
                        for column, array in batch.items()
                        if column.startswith("view ")
                    }
                    for number in range(len(batch["line"])):
                        self.add({view: texts[number] for view, texts in views.items()})

    def find(self, first: Sequence[str], second: Sequence[str]) -> "Found | None":
        """What a training record shares with the test sets; None: nothing.

        Args:
            first: Wordings of its first view in matching form.
            second: Of its second view; empty: both views are one.
        """
        sides = (first, second or first)
        grams: set[str] = set()
        looked: set[str] = set()
        for name, texts in zip(self.views, sides, strict=True):
            here = {gram for text in texts for gram in ngrams(text, self.config.ngram)}
            grams |= here
            if self.config.views is None or name in self.config.views:
                looked |= here
        grams &= self._every_gram
        if not grams and self._every_text.isdisjoint((*first, *second)):
            return None
        hits: list[tuple[int, str, int]] = []
        contaminated = self.config.match == "ngram" and not looked.isdisjoint(grams)
        for number, found in enumerate(self.sets):
            for one in sides[0]:
                for other in sides[1]:
                    if (one, other) in found.pairs:
                        hits.append((number, "pair", found.pairs[one, other]))
                        contaminated |= self.config.match == "pair"
            for side, (name, texts) in enumerate(zip(self.views, sides, strict=True)):
                counted = self.config.views is None or name in self.config.views
                for text in texts:
                    if text in found.views[side]:
                        hits.append((number, ("first", "second")[side], found.views[side][text]))
                    if text in found.texts:
                        hits.append((number, "any", found.texts[text]))
                        contaminated |= counted and self.config.match in ("view", "ngram")
            hits += [(number, "ngram", text) for gram in grams for text in found.grams.get(gram, ())]
        return Found(contaminated, hits)


@dataclass(frozen=True)
class Found:
    """What a training record shares with test sets.

    Attributes:
        contaminated: By the rule of ``match``.
        hits: (number of the test set, kind, number of its item).
    """

    contaminated: bool
    hits: list[tuple[int, str, int]]


def ngrams(text: str, size: int) -> list[str]:
    """All n-grams of words; the whole text if it has no more words than that."""
    words = text.split(" ")
    if len(words) <= size:
        return [text] if text else []
    return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]
