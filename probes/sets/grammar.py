"""The review grammar as a labelled set: the polarity is known, for it follows from what a review says.

Train and test differ in both layers of the grammar. No meaning of the test split is in train, and no sentence frame
that words a test review words one of train: the frames (clauses, idioms, contrasts, joins, foils, verdicts, openings)
are divided between them. Words are shared: aspects, adjectives, verb phrases and nouns have no synonyms to spare. A
probe that scores on the test split has therefore found the polarity itself, or its words, but no frame.

The draws have names of their own, so that no review is a record of a pre-training corpus, whatever its seed, but by
chance.
"""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, TypeVar

import numpy as np

from pretrain.runtime.errors import DiptychError
from pretrain.sources.synthetic import reviews_lexicon as lexicon
from pretrain.sources.synthetic.reviews import Draw, Meaning, draw_meaning, word_meaning
from pretrain.sources.synthetic.reviews_lexicon import SentenceFrame
from probes.sets.labelled import LabelledSet, Split

T = TypeVar("T")


def _templates() -> Iterator[list[str]]:
    """All sentence frames, list by list."""
    yield [frame.text for frame in lexicon.ADJECTIVE_FRAMES]
    yield [frame.text for frame in lexicon.VERB_FRAMES]
    for strengths in lexicon.IDIOMS.values():
        yield from map(list, strengths.values())
    for occasions in lexicon.OCCASIONS.values():
        yield from map(list, occasions.values())
    yield from map(list, (lexicon.CONTRASTS, lexicon.JOINS_EMBEDDED, lexicon.JOINS_FREE, lexicon.INTROS))
    yield from map(list, chain(lexicon.FOILS.values(), lexicon.VERDICTS.values()))


# Two of six, in the order of the lists, which have similar frames side by side. With these two, every choice that the
# grammar makes has frames on both sides.
HELD_OUT: Final = frozenset(text for texts in _templates() for index, text in enumerate(texts) if index % 6 in (0, 5))
"""The frames that word the test split and nothing else."""

NUM_FRAMES: Final = len({text for texts in _templates() for text in texts})


class FramesOfOneSide(Draw):
    """Choices that only use the frames of one side.

    Args:
        name: Of the stream of choices.
        held_out: Whether to use the frames of the test split.
    """

    def __init__(self, name: str, held_out: bool) -> None:
        super().__init__(name)
        self._held_out = held_out

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options of this side, all equally likely."""
        if "{" in _text(options[0]):
            options = [option for option in options if (_text(option) in HELD_OUT) == self._held_out]
        return super().pick(options)


def load_reviews(
    count: int, seed: int, test_share: float, max_train: int | None = None, max_test: int | None = None
) -> LabelledSet:
    """Makes reviews with their polarity.

    Args:
        count: Meanings in both splits together, all different, each worded once.
        seed: Selects them.
        test_share: Share of them that is tested on.
        max_train: Most training texts.
        max_test: Most test texts.

    Raises:
        DiptychError: There are too few for two classes in both splits.
    """
    num_test = round(count * test_share)
    meanings = _different_meanings(seed, count)
    train = _worded(seed, meanings[num_test:][:max_train], held_out=False)
    test = _worded(seed, meanings[:num_test][:max_test], held_out=True)
    for split in (train, test):
        if min(split.counts(2)) == 0:
            raise DiptychError(f"reviews_count: {count} meanings leave a split without one of the classes; raise it")
    notes = (
        "the polarity follows from what a review says; words are shared by train and test, meanings are not",
        f"{len(HELD_OUT)} of the grammar's {NUM_FRAMES} sentence frames word the test split, the others train",
    )
    return LabelledSet(
        "reviews",
        "Review grammar, held-out meanings and frames",
        f"reviews (count {count:,}, seed {seed})",
        ("negative", "positive"),
        train,
        test,
        control=False,
        notes=notes,
    )


def _different_meanings(seed: int, count: int) -> list[tuple[int, Meaning]]:
    """The first meanings, none twice, with the numbers that they were drawn by."""
    found: dict[Meaning, int] = {}
    index = 0
    while len(found) < count:
        found.setdefault(draw_meaning(Draw(f"probed reviews/{seed}/{index}/meaning")), index)
        index += 1
    return [(index, meaning) for meaning, index in found.items()]


def _worded(seed: int, meanings: Sequence[tuple[int, Meaning]], held_out: bool) -> Split:
    texts = tuple(
        word_meaning(FramesOfOneSide(f"probed reviews/{seed}/{index}/wording", held_out), meaning)
        for index, meaning in meanings
    )
    return Split(texts, np.array([meaning.label for _, meaning in meanings], np.int64))


def _text(option: object) -> str:
    """The frame that an option is; words have no braces."""
    return option.text if isinstance(option, SentenceFrame) else str(option)
