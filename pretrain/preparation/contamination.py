"""Finds, counts and drops test texts in the training data.

Texts are compared as ``comparing.py`` says. A test set is held in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pretrain.config.data import DecontaminationConfig
from pretrain.preparation.comparing import Forms, TextComparison, grams
from pretrain.preparation.reading import ReadPart, read_batches, wordings

KINDS = ("pair", "first", "second", "any", "ngram")
"""How a test record was found: its pair; its first view among first views, its second among second views; one of its
views anywhere; an n-gram of one of its views anywhere."""


@dataclass
class EvaluationSet:
    """The records of one test set, indexed by what training records may share with them.

    Attributes:
        name: Of its source.
        pairs: Key of a pair to its number.
        views: For each view, form of a text to its number.
        texts: Form of a text of any view to its number.
        grams: n-gram, or whole shorter text, to the numbers of the texts that hold it.
    """

    name: str
    pairs: dict[str, int] = field(default_factory=dict)
    views: tuple[dict[str, int], dict[str, int]] = field(default_factory=lambda: ({}, {}))
    texts: dict[str, int] = field(default_factory=dict)
    grams: dict[str, list[int]] = field(default_factory=dict)

    @property
    def items(self) -> dict[str, int]:
        """Number of distinct items per kind: pairs, first texts, second texts, texts, and texts again for n-grams."""
        pairs, texts = len({*self.pairs.values()}), len({*self.texts.values()})
        sizes = (pairs, len(self.views[0]), len(self.views[1]), texts, texts)
        return dict(zip(KINDS, sizes, strict=True))


class EvaluationIndex:
    """All test sets, and what a training record shares with them."""

    def __init__(self, config: DecontaminationConfig, comparison: TextComparison) -> None:
        self.config = config
        self.comparison = comparison
        self.views = comparison.views
        self.sets: list[EvaluationSet] = []
        self._every_text: set[str] = set()
        self._every_gram: set[str] = set()

    def start_set(self, name: str) -> None:
        """The records added from now on belong to this set."""
        self.sets.append(EvaluationSet(name))

    def add(self, views: Mapping[str, Sequence[str]]) -> None:
        """Adds one test record, with any of the views."""
        test_set = self.sets[-1]
        first, second = self.comparison.sides(*(views.get(name, ()) for name in self.views))
        if self.views[0] == self.views[1]:
            second = []
        for side, texts in enumerate((first, second or first)):
            for forms in texts:
                test_set.views[side].setdefault(forms[0], len(test_set.views[side]))
                if all(form in test_set.texts for form in forms):
                    continue
                number = _number(test_set.texts, forms)
                self._every_text.update(forms)
                for gram in grams(forms, self.config.ngram):
                    test_set.grams.setdefault(gram, []).append(number)
                    self._every_gram.add(gram)
        for keys in self.comparison.pairs(first, second):
            _number(test_set.pairs, keys)

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

    def find(self, first: Sequence[Forms], second: Sequence[Forms]) -> "Contamination | None":
        """What a training record shares with the test sets, or None if nothing.

        Args:
            first: Wordings of its first view.
            second: Of its second view; empty: both views are one.
        """
        sides = (first, second or first)
        shared: set[str] = set()
        looked: set[str] = set()
        for name, texts in zip(self.views, sides, strict=True):
            here = {gram for forms in texts for gram in grams(forms, self.config.ngram)} & self._every_gram
            shared |= here
            if self._looks_at(name):
                looked |= here
        if not shared and all(self._every_text.isdisjoint(forms) for texts in sides for forms in texts):
            return None
        hits: set[tuple[int, str, int]] = set()
        contaminated = self.config.match == "ngram" and bool(looked)
        pairs = list(self.comparison.pairs(first, second))
        for number, test_set in enumerate(self.sets):
            same = {test_set.pairs[key] for keys in pairs for key in keys if key in test_set.pairs}
            hits |= {(number, "pair", pair) for pair in same}
            contaminated |= bool(same) and self.config.match == "pair"
            for side, (name, texts) in enumerate(zip(self.views, sides, strict=True)):
                for forms in texts:
                    if forms[0] in test_set.views[side]:
                        hits.add((number, ("first", "second")[side], test_set.views[side][forms[0]]))
                    equal = {test_set.texts[form] for form in forms if form in test_set.texts}
                    hits |= {(number, "any", text) for text in equal}
                    contaminated |= bool(equal) and self._looks_at(name) and self.config.match in ("view", "ngram")
            hits |= {(number, "ngram", text) for gram in shared for text in test_set.grams.get(gram, ())}
        return Contamination(contaminated, sorted(hits))

    def _looks_at(self, view: str) -> bool:
        return self.config.views is None or view in self.config.views


@dataclass(frozen=True)
class Contamination:
    """What a training record shares with test sets.

    Attributes:
        contaminated: By the rule of ``match``.
        hits: (number of the test set, kind, number of its item).
    """

    contaminated: bool
    hits: list[tuple[int, str, int]]


def _number(numbers: dict[str, int], keys: Sequence[str]) -> int:
    """The number of an item with some keys, which it shares with an item that has one of them."""
    number = next((numbers[key] for key in keys if key in numbers), len(numbers))
    for key in keys:
        numbers.setdefault(key, number)
    return number
