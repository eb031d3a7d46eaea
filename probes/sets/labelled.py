"""The labelled set that probes are trained and tested on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from pretrain.probing.copies import Copies, find_copies
from probes.sets.same_text import same_text_key


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their classes.

    Attributes:
        texts: None is empty.
        labels: int64 [num_texts], from 0 to the number of classes - 1.
        groups: What texts that must not be divided have in common, such as their author; None of a text: nothing.
            Empty: there are no groups.
    """

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]
    groups: tuple[str | None, ...] = ()

    def __len__(self) -> int:
        return len(self.texts)

    def counts(self, num_classes: int) -> tuple[int, ...]:
        """Number of texts by label."""
        return tuple(np.bincount(self.labels, minlength=num_classes).tolist())

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What copies of a text have in common: all but case, space and punctuation, or the text if nothing is left."""
        return tuple(same_text_key(text) or text for text in self.texts)

    @cached_property
    def copies(self) -> Copies:
        """Which texts belong together."""
        return find_copies(self.keys, self.groups or None)


@dataclass(frozen=True, eq=False)
class LabelledSet:
    """A set with at least two classes, all of which occur in train.

    Attributes:
        name: As in reports; short.
        title: For people.
        source: Where it was read from, with the revision.
        label_names: By label.
        train: What classifiers are trained on.
        test: What they are scored on.
        control: False where the labels are sentiment, True where they are known not to be; None: not known.
        notes: What was left out or made otherwise, one sentence each.
    """

    name: str
    title: str
    source: str
    label_names: tuple[str, ...]
    train: Split
    test: Split
    control: bool | None = None
    notes: tuple[str, ...] = ()

    def test_in_train(self, *, groups: bool = False) -> npt.NDArray[np.bool_]:
        """Which test texts, or groups of test texts, are also in train [num_test]."""
        known = set(self.train.groups) - {None} if groups else set(self.train.keys)
        own = (self.test.groups or (None,) * len(self.test)) if groups else self.test.keys
        return np.array([key in known for key in own], np.bool_)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the texts, labels and groups of both splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(f"{len(split)}\n".encode())
            for text, label in zip(split.texts, split.labels.tolist(), strict=True):
                data = text.encode()
                digest.update(f"{label} {len(data)}\n".encode() + data)
            if split.groups:
                digest.update("\0".join(group or "" for group in split.groups).encode())
        return digest.hexdigest()
