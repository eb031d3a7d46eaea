"""The labelled set that probes are trained and tested on."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Split:
    """Texts and their classes.

    Attributes:
        texts: None is empty.
        labels: int64 [num_texts], from 0 to the number of classes - 1.
    """

    texts: tuple[str, ...]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)

    def counts(self, num_classes: int) -> tuple[int, ...]:
        """Number of texts by label."""
        return tuple(np.bincount(self.labels, minlength=num_classes).tolist())


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

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of the texts and labels of both splits."""
        digest = hashlib.sha256()
        for split in (self.train, self.test):
            digest.update(f"{len(split)}\n".encode())
            for text, label in zip(split.texts, split.labels.tolist(), strict=True):
                data = text.encode()
                digest.update(f"{label} {len(data)}\n".encode() + data)
        return digest.hexdigest()
