"""Stage 3: which records are kept, on which side of the split, and why the others are dropped.

What takes all records, duplicates above all, follows from the keys that stage 2 left on disk.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from pretrain.data.branches import BoolArray, IntArray
from pretrain.preparation.cleaning import Filter
from pretrain.preparation.contamination import KINDS
from pretrain.preparation.duplicates import KeyArray, repeats
from pretrain.preparation.examining import CODES, REASONS, Rules
from pretrain.preparation.groups import share_texts
from pretrain.preparation.reading import LISTED, ReadPart, read_batches
from pretrain.runtime.errors import DiptychError

HELDOUT = 255
"""Verdict on a record that is kept and held out."""

_STRIDE = 1 << 20


@dataclass(frozen=True)
class Judged:
    """Verdicts on one source: a byte per record in a file, its number in ``REASONS`` or ``HELDOUT``.

    Attributes:
        path: The file.
        first: Where the source's records begin in it.
        records: How many they are.
    """

    path: Path
    first: int
    records: int

    @property
    def verdicts(self) -> npt.NDArray[np.uint8]:
        """The verdicts, memory-mapped; shape [records]."""
        if not self.records:
            return np.zeros(0, np.uint8)
        return np.memmap(self.path, np.uint8, "r", offset=self.first, shape=self.records)

    def kept(self, split: str, start: int, stop: int) -> BoolArray:
        """Which of the records ``start`` to ``stop - 1`` are in a split, ``train`` or ``heldout``."""
        found: BoolArray = self.verdicts[start:stop] == (HELDOUT if split == "heldout" else 0)
        return found

    def count(self, split: str) -> int:
        """Records of a split."""
        strides = range(0, self.records, _STRIDE)
        return sum(int(self.kept(split, start, start + _STRIDE).sum()) for start in strides)

    def dropped(self) -> dict[str, int]:
        """Dropped records by reason."""
        found = np.zeros(256, dtype=np.int64)
        for start in range(0, self.records, _STRIDE):
            found += np.bincount(self.verdicts[start : start + _STRIDE], minlength=256)
        return {reason: int(found[code]) for code, reason in enumerate(REASONS) if code and found[code]}


@dataclass(frozen=True)
class Judgement:
    """Verdicts on all sources, with counts and notes.

    Attributes:
        sources: One per source.
        duplicates: Dropped duplicates, ``{"of": name, "in": name, "reason": reason, "records": n}``: records of the
            source ``in`` that repeat one of the source ``of``.
        leaks: For each test set and training source how many distinct test items occur there, by kind.
        repeated_ids: Number of records whose id an earlier one has.
        id_rows: The first of them: ``file:line: problem``.
        dropped_wordings: For each source, wordings that were dropped of records that passed the filters, by reason.
        notes: What the user should look at.
    """

    sources: list[Judged]
    duplicates: list[dict[str, Any]]
    leaks: list[dict[str, Any]]
    repeated_ids: int
    id_rows: list[str]
    dropped_wordings: list[dict[str, int]]
    notes: list[str]


class Judge:
    """Decides which records are kept, from all records together.

    Args:
        titles: Names of the sources.
        parts: What was read of each.
        files: What :func:`examine` made of each part.
        training: Whether each source is trained on.
        rules: What decides.
        scratch: Folder of files that live as long as the judgement.
    """

    def __init__(
        self,
        titles: Sequence[str],
        parts: Sequence[Sequence[ReadPart]],
        files: Sequence[Sequence[Path]],
        training: Sequence[bool],
        rules: Rules,
        scratch: Path,
    ) -> None:
        self.titles, self.parts, self.files, self.training = titles, parts, files, training
        self.rules, self.scratch = rules, scratch
        # Held-out sources come first: of two equal records the one in training is dropped.
        self.order = sorted(range(len(titles)), key=lambda source: training[source])
        sizes = [sum(part.records for part in own) for own in parts]
        self.first = dict(zip(self.order, np.cumsum([0, *(sizes[source] for source in self.order)]), strict=False))
        self.count = sum(sizes)
        self.path = scratch / "verdicts"
        with self.path.open("wb") as file:
            for start in range(
                0, max(1, self.count), _STRIDE
            ):  # written out: a full disk is an error here, not a signal
                file.write(bytes(min(_STRIDE, max(1, self.count) - start)))
        self.verdicts = np.memmap(self.path, np.uint8, "r+", shape=max(1, self.count))
        self.repeated_ids, self.id_rows = 0, list[str]()
        self.repeated: Counter[tuple[int, int, str]] = Counter()
        self.sizes = sizes
        self.notes: list[str] = []

    def judgement(self, tests: Sequence[str], skip: bool) -> Judgement:
        """Decides.

        Args:
            tests: Names of the test sets.
            skip: Count a repeated id as a bad row, instead of stopping.

        Raises:
            DiptychError: An id occurs twice in a source.
        """
        for first, file in self._each():
            verdicts = file["verdicts"]
            self.verdicts[first : first + len(verdicts)] = verdicts
        self._check_ids(skip)
        self._keep_groups_apart()
        if self.rules.deduplication.exact:
            for number in range(self.rules.comparison.key_count):
                self._drop("duplicate", lambda file, number=number: file["exact"][:, number])  # type: ignore[misc]
        if self.rules.deduplication.near:
            for band in range(self.rules.deduplication.bands):
                self._drop("near_duplicate", lambda file, band=band: file["bands"][:, band])  # type: ignore[misc]
        self._hold_out()
        self.verdicts.flush()
        judged = [Judged(self.path, int(self.first[source]), size) for source, size in enumerate(self.sizes)]
        return Judgement(
            judged,
            self._duplicates(),
            self._leaks(tests),
            self.repeated_ids,
            self.id_rows,
            [self._dropped_wordings(source) for source in range(len(self.titles))],
            self.notes,
        )

    def _each(self, sources: Sequence[int] | None = None) -> Iterator[tuple[int, Any]]:
        """First record number and arrays of every part."""
        for source in self.order if sources is None else sources:
            first = int(self.first[source])
            for part, path in zip(self.parts[source], self.files[source], strict=True):
                try:
                    opened = np.load(path, allow_pickle=False)
                except (ValueError, EOFError, BadZipFile):
                    raise DiptychError(f"{path}: damaged; remove it, and its records will be examined again") from None
                with opened as file:
                    yield first, file
                first += part.records

    def _drop(self, reason: str, keys: Callable[[Any], KeyArray]) -> None:
        def chunks() -> Iterator[tuple[IntArray, KeyArray]]:
            for first, file in self._each():
                own = keys(file)
                alive = np.flatnonzero(self.verdicts[first : first + len(own)] == 0)
                yield alive + first, own[alive]

        starts = np.array([self.first[source] for source in self.order])
        for records, originals in repeats(chunks, self.count, self.scratch):
            self.verdicts[records] = CODES[reason]
            of = np.searchsorted(starts, originals, side="right") - 1
            within = np.searchsorted(starts, records, side="right") - 1
            pairs, found = np.unique(np.stack([of, within], axis=1), axis=0, return_counts=True)
            for (one, other), number in zip(pairs.tolist(), found.tolist(), strict=True):
                self.repeated[self.order[one], self.order[other], reason] += number

    def _check_ids(self, skip: bool) -> None:
        for source in range(len(self.titles)):

            def chunks(source: int = source) -> Iterator[tuple[IntArray, KeyArray]]:
                for first, file in self._each([source]):
                    named = np.flatnonzero(file["ids"])
                    yield named + first, file["ids"][named]

            for records, originals in repeats(chunks, self.sizes[source], self.scratch):
                if len(records) and not skip:
                    worst = int(records.argmin())
                    place, name = self._place(source, int(records[worst]))
                    before, _ = self._place(source, int(originals[worst]))
                    raise DiptychError(
                        f"{place}: the id {name!r} was seen before, at {before}; make ids unique, leave out the "
                        "source's id setting, or set data.on_bad_row=skip to keep the first of them"
                    )
                self.verdicts[records] = CODES["duplicate_id"]
                self.repeated_ids += len(records)
                for record in np.sort(records)[: max(0, LISTED - len(self.id_rows))].tolist():
                    place, name = self._place(source, record)
                    self.id_rows.append(f"{place}: the id {name!r} was seen before")

    def _keep_groups_apart(self) -> None:
        """Drops training records whose group, or whose texts, a held-out source holds."""
        heldout = [source for source in self.order if not self.training[source]]
        keys = range(self.rules.comparison.key_count)
        groups, texts = np.zeros(0, np.uint64), [np.zeros(0, np.uint64) for _ in keys]
        for _, file in self._each(heldout):
            own = file["groups"]
            groups = np.union1d(groups, own[own > 0])
            texts = [np.union1d(held, file["exact"][:, key, 0]) for key, held in zip(keys, texts, strict=True)]
        for source in (source for source in self.order if self.training[source] and heldout):
            by_group = np.zeros(self.sizes[source], np.bool_)
            start = int(self.first[source])
            for first, file in self._each([source]):
                own = self.verdicts[first : first + len(file["groups"])]
                kept = own == 0
                shared = kept & np.isin(file["groups"], groups)
                by_group[first - start : first - start + len(own)] = shared
                for key, held in zip(keys, texts, strict=True):
                    shared |= kept & np.isin(file["exact"][:, key, 0], held)
                own[shared] = CODES["held_out_elsewhere"]
            if np.any(by_group):
                self._check_groups(source, by_group, heldout)

    def _check_groups(self, source: int, by_group: BoolArray, heldout: Sequence[int]) -> None:
        """Notes groups that are likely to have nothing but their names in common."""
        held = [self.parts[other] for other in heldout]
        if not share_texts(self.parts[source], by_group, held, self.rules.comparison.views):
            self.notes.append(
                f"{np.count_nonzero(by_group):,} of {len(by_group):,} records of source {self.titles[source]!r} are "
                "not trained on, for a held-out source has groups of the same names, but texts of these groups are not "
                "the same; if the groups are only numbered in each file, leave out the group setting of one of them"
            )

    def _place(self, source: int, record: int) -> tuple[str, str]:
        inside = record - int(self.first[source])
        for part in self.parts[source]:
            if inside < part.records:
                for batch in read_batches(part.path, ["file", "line", "id"]):
                    if inside < len(batch["line"]):
                        file, line, name = (batch[column][inside].as_py() for column in ("file", "line", "id"))
                        return f"{file}:{line}", name
                    inside -= len(batch["line"])
            inside -= part.records
        raise IndexError(record)

    def _hold_out(self) -> None:
        threshold = np.uint64(int((self.rules.heldout_fraction or 0) * 2**64))
        for source in self.order:
            for first, file in self._each([source]):
                draws = file["draws"]
                held = draws < threshold if self.training[source] else np.full(len(draws), True)
                own = self.verdicts[first : first + len(draws)]
                own[held & (own == 0)] = HELDOUT

    def _duplicates(self) -> list[dict[str, Any]]:
        return [
            {"of": self.titles[one], "in": self.titles[other], "reason": reason, "records": number}
            for (one, other, reason), number in sorted(self.repeated.items())
        ]

    def _dropped_wordings(self, source: int) -> dict[str, int]:
        total = sum((file["wordings"] for _, file in self._each([source])), np.zeros(len(Filter.reasons), np.int64))
        return {reason: int(number) for reason, number in zip(Filter.reasons, total, strict=True) if number}

    def _leaks(self, tests: Sequence[str]) -> list[dict[str, Any]]:
        """Distinct items of every test set that a training source holds."""
        leaks = []
        for source, title in enumerate(self.titles):
            if not self.training[source] or not tests:
                continue
            hits = np.zeros((0, 3), np.int64)
            for _, file in self._each([source]):
                hits = np.unique(np.concatenate([hits, file["hits"]]), axis=0)
            for number, test in enumerate(tests):
                kinds = np.bincount(hits[hits[:, 0] == number, 1], minlength=len(KINDS))
                leaks.append({"test": test, "in": title} | dict(zip(KINDS, kinds.tolist(), strict=True)))
        return leaks
