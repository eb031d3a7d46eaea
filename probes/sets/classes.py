"""From rows to a labelled set: numbers the classes, splits, subsamples and checks."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pretrain.probing.copies import find_copies
from pretrain.runtime.errors import DiptychError
from probes.sets.labelled import LabelledSet, Split
from probes.sets.rows import Label, LabelledRow
from probes.sets.same_text import same_text_key

MAX_CLASSES = 1000
"""A column with more labels is an identifier, a date or a measurement; tables of so many classes nobody reads."""


@dataclass(frozen=True)
class Naming:
    """What the classes are called.

    Attributes:
        names: Of the classes 0, 1, ... where no column names them.
        merged: Class to the one that it becomes; None: its rows are left out.
    """

    names: tuple[str, ...] = ()
    merged: Mapping[str, str | None] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; empty if none are known."""
        merged = self.merged or {}
        found = (merged.get(name, name) for name in self.names)
        return tuple(dict.fromkeys(name for name in found if name is not None))


class Gathered:
    """The rows of one split that have a text.

    Args:
        rows: Read once.
        most: More are thinned out as they come; None keeps all.
    """

    def __init__(self, rows: Iterable[LabelledRow], most: int | None = None) -> None:
        self.place: str | None = None
        self.num_empty = self.num_filled = 0
        self.rows = _thinned(self._filled(rows), most)

    def notes(self, split: str) -> list[str]:
        """Sentences about rows that were left out or subsampled."""
        notes = []
        if self.num_empty:
            notes.append(f"{_counted(self.num_empty, 'empty text')} left out of {split}")
        if self.num_filled > len(self.rows):
            notes.append(
                f"{len(self.rows):,} of {self.num_filled:,} {split} texts are used, drawn by a hash of the text"
            )
        return notes

    def _filled(self, rows: Iterable[LabelledRow]) -> Iterator[LabelledRow]:
        for row in rows:
            self.place = row.file
            if row.text:
                self.num_filled += 1
                yield row
            else:
                self.num_empty += 1


def make_set(
    name: str,
    title: str,
    source: str,
    train: Iterable[LabelledRow],
    test: Iterable[LabelledRow] | None,
    *,
    naming: Naming,
    test_share: float,
    max_train: int | None = None,
    max_test: int | None = None,
    control: bool | None = None,
    notes: Sequence[str] = (),
) -> LabelledSet:
    """Numbers the classes and makes the splits.

    Args:
        name: As in reports.
        title: For people.
        source: Where the rows come from.
        train: Training rows, or all of them.
        test: Test rows; none: ``train`` is divided.
        naming: Of the classes.
        test_share: Share of the rows that become the test split where there is only one.
        max_train: Most training rows; more are thinned out by a hash of their text. None keeps all.
        max_test: Likewise.
        control: Whether the labels are known not to be sentiment; None: not known.
        notes: To begin with.

    Raises:
        DiptychError: A split is empty or has fewer rows than there are classes, there is one class only, the test split
            has no labels or a class that train has not, or classes and their names do not fit.
    """
    if test is None:
        gathered = _divided(Gathered(train), test_share, max_train, max_test)
    else:
        gathered = {"train": Gathered(train, max_train), "test": Gathered(test, max_test)}
    said = [*notes, *(note for split, found in gathered.items() for note in found.notes(split))]
    if test is None:
        total = sum(found.num_filled for found in gathered.values())
        said.append(
            f"there is one split only: {gathered['test'].num_filled:,} of {total:,} texts were made the test split by "
            "a hash of the text, whatever their class" + (", groups as a whole" if _has_groups(gathered) else "")
        )
    places = {split: found.place or source for split, found in gathered.items()}
    rows = {split: found.rows for split, found in gathered.items()}
    for split, own in rows.items():
        if not own:
            raise DiptychError(f"{places[split]}: the {split} split has no texts; add some or name another split")
    if {row.raw for row in rows["test"]} == {-1} and -1 not in {row.raw for row in rows["train"]}:
        raise DiptychError(
            f"{places['test']}: the test split has no labels (all are -1, as where they are kept secret); name a split "
            "that has some with --test-split, such as validation"
        )
    classes = _class_names([*rows["train"], *rows["test"]], naming)
    for split, own in rows.items():
        rows[split] = [row for row in own if classes[row.raw] is not None]
        if len(rows[split]) < len(own):
            said.append(f"{_counted(len(own) - len(rows[split]), f'{split} text')} of other classes left out")
    label_names = tuple(dict.fromkeys(name for name in classes.values() if name is not None))
    if len({name.casefold() for name in label_names}) < len(label_names):
        said.append("labels that differ in case alone count as different classes")
    _check(rows, places, classes, label_names)
    numbers = {name: number for number, name in enumerate(label_names)}
    splits = {
        split: Split(
            tuple(row.text for row in own),
            np.array([numbers[str(classes[row.raw])] for row in own], np.int64),
            tuple(row.group for row in own) if any(row.group is not None for row in own) else (),
        )
        for split, own in rows.items()
    }
    meanings = Counter(text for text, _ in {(row.text, classes[row.raw]) for row in rows["train"]})
    conflicting = sum(count > 1 for count in meanings.values())
    if conflicting:
        occur = "occurs" if conflicting == 1 else "occur"
        said.append(f"{_counted(conflicting, 'train text')} {occur} with more than one label")
    return LabelledSet(name, title, source, label_names, splits["train"], splits["test"], control, tuple(said))


def _check(
    rows: Mapping[str, Sequence[LabelledRow]],
    places: Mapping[str, str],
    classes: Mapping[Label, str | None],
    label_names: Sequence[str],
) -> None:
    if len(label_names) > MAX_CLASSES:
        raise DiptychError(
            f"{places['train']}: {len(label_names):,} classes; {MAX_CLASSES:,} are the most: name the column of the "
            "classes with --label"
        )
    if len(label_names) < 2:
        raise DiptychError(
            f"{places['train']}: there is one class only ({', '.join(label_names) or 'none is left'}), and nothing to "
            "tell apart; a probe needs two"
        )
    for split, own in rows.items():
        if len(own) < len(label_names):
            raise DiptychError(
                f"{places[split]}: the {split} split has {_counted(len(own), 'text')} for {len(label_names)} classes; "
                "add texts, or name the column of the classes with --label"
            )
    known = {classes[row.raw] for row in rows["train"]}
    for row in rows["test"]:
        if classes[row.raw] not in known:
            raise DiptychError(
                f"{row.place}: class {classes[row.raw]!r} is in test but not in train, so it cannot be learned; add it "
                "to train or drop it from test"
            )


def _class_names(rows: Sequence[LabelledRow], naming: Naming) -> dict[Label, str | None]:
    """Names of the classes in the data, in the order of their numbers; None for a class that is left out."""
    first: dict[Label, LabelledRow] = {}
    named: dict[Label, LabelledRow] = {}
    for row in rows:
        first.setdefault(row.raw, row)
        if row.class_name is not None and named.setdefault(row.raw, row).class_name != row.class_name:
            raise DiptychError(
                f"{row.place}: label {row.raw} is called {row.class_name!r} here and {named[row.raw].class_name!r} in "
                f"{named[row.raw].place}; correct one"
            )
    numbers = sorted(raw for raw in first if isinstance(raw, int))
    words = sorted(raw for raw in first if isinstance(raw, str))
    if numbers and words:
        odd = first[words[0]]
        raise DiptychError(f"{odd.place}: label {odd.raw!r} is a text, but others are numbers; use one kind")
    if set(words) <= set(naming.names):
        words.sort(key=naming.names.index)
    counted = not numbers or (numbers[0] >= 0 and numbers[-1] < len(naming.names))
    names: dict[Label, str] = {}
    order: list[Label] = [*numbers, *words]
    for raw in order:
        own = named[raw].class_name if raw in named else None
        name = own or (naming.names[raw] if isinstance(raw, int) and counted else str(raw))
        if name in names.values():
            raise DiptychError(f"{first[raw].place}: two labels are called {name!r}; correct the names")
        names[raw] = name
    merged = naming.merged or {}
    return {raw: merged.get(name, name) for raw, name in names.items()}


def _divided(whole: Gathered, test_share: float, max_train: int | None, max_test: int | None) -> dict[str, Gathered]:
    """Training and test rows by a hash of the text; the same on every call, equal texts and groups on one side."""
    train: list[LabelledRow] = []
    test: list[LabelledRow] = []
    keys = [same_text_key(row.text) or row.text for row in whole.rows]
    clusters = find_copies(keys, [row.group for row in whole.rows]).clusters.tolist()
    first: dict[int, str] = {}
    for row, key, cluster in zip(whole.rows, keys, clusters, strict=True):
        digest = _digest("split", first.setdefault(cluster, key))
        (test if int.from_bytes(digest, "big") < test_share * 2**128 else train).append(row)
    divided = {"train": Gathered(train, max_train), "test": Gathered(test, max_test)}
    divided["train"].num_empty = whole.num_empty  # they belong to no split
    for found in divided.values():
        found.place = whole.place
    return divided


def _has_groups(gathered: Mapping[str, Gathered]) -> bool:
    return any(row.group is not None for found in gathered.values() for row in found.rows)


def _thinned(rows: Iterable[LabelledRow], most: int | None) -> list[LabelledRow]:
    """At most so many rows, in their order, chosen by a hash of the text, so that equal texts stay together."""
    if most is None:
        return list(rows)
    drawn = heapq.nsmallest(most, enumerate(rows), key=lambda item: (_digest("draw", item[1].text), item[0]))
    return [row for _, row in sorted(drawn, key=lambda item: item[0])]


def _digest(salt: str, text: str) -> bytes:
    return hashlib.blake2b(f"{salt}\0{text}".encode(), digest_size=16).digest()


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
