"""Stage 2: what can be decided about each record alone: its form, its overlap with test sets, its keys.

One file per part, named by a hash of what decides its content.
"""

import hashlib
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.config.data import CleaningConfig, DecontaminationConfig, DeduplicationConfig
from pretrain.preparation.cleaning import Filter
from pretrain.preparation.comparing import TextComparison, draw_key, words
from pretrain.preparation.contamination import KINDS, EvaluationIndex
from pretrain.preparation.duplicates import MINHASH_VERSION, KeyArray, band_keys, text_key
from pretrain.preparation.reading import ReadPart, read_batches, wordings
from pretrain.preparation.workers import WorkerPool, advance
from pretrain.runtime.atomic_write import whole_file

FORMAT = 2
"""Changes whenever the same part gives another file."""

REASONS = ("kept", *Filter.reasons, "contaminated", "duplicate_id", "held_out_elsewhere", "duplicate", "near_duplicate")
"""Why a record is dropped; files and verdicts hold the number."""

CODES = {reason: code for code, reason in enumerate(REASONS)}
"""Reason to number."""


@dataclass(frozen=True)
class Rules:
    """The settings that decide which records are kept.

    Attributes:
        comparison: The two views that are used, and which of their texts count as equal.
        cleaning: Filters.
        deduplication: Exact and near.
        decontamination: Test sets.
        heldout_fraction: Share of records that is held out; None: held-out records have sources of their own.
    """

    comparison: TextComparison
    cleaning: CleaningConfig
    deduplication: DeduplicationConfig
    decontamination: DecontaminationConfig
    heldout_fraction: float | None


@dataclass(frozen=True)
class _Task:
    part: ReadPart
    training: bool
    rules: Rules
    tests: tuple[str, tuple[tuple[str, tuple[ReadPart, ...]], ...]]  # a hash, and the parts of each test set
    out: Path


_index: tuple[str, EvaluationIndex] | None = None


def examine(
    parts: Sequence[Sequence[ReadPart]],
    training: Sequence[bool],
    tests: Sequence[tuple[str, Sequence[ReadPart]]],
    rules: Rules,
    folder: Path,
    workers: WorkerPool,
) -> list[list[Path]]:
    """Examines every part that is not in the cache yet.

    Args:
        parts: What was read of each source.
        training: Whether each is trained on; the others are held out, and may hold test records.
        tests: Name and parts of every test set.
        rules: What decides.
        folder: Where the files of this stage lie.
        workers: Who does it.

    Returns:
        For each part a file of arrays with one entry per record: ``verdicts`` (number in ``REASONS``), ``exact`` (keys
        of its texts), ``groups`` (0: none), ``draws`` (decides on the held-out split), ``ids`` (0: none), ``bands``;
        and ``hits``, the test items found: (test set, kind, item); ``wordings``, how many were dropped of records that
        were kept, for each reason of the filter.
    """
    held = [[name, *(part.path.name for part in source_parts)] for name, source_parts in tests]
    decided = _hash([FORMAT, _facts(rules), held])
    packed = (decided, tuple((name, tuple(source_parts)) for name, source_parts in tests))
    tasks = []
    for source_parts, trains in zip(parts, training, strict=True):
        for part in source_parts:
            tasks.append(_Task(part, trains, rules, packed, folder / f"{_hash([decided, part.path.name, trains])}.npz"))
    total = sum(task.part.records for task in tasks)
    files = iter(list(workers.run("examining", _examine, tasks, total=total)))
    return [[next(files) for _ in source_parts] for source_parts in parts]


def _facts(rules: Rules) -> dict[str, Any]:
    """What the verdict on a single record and its keys depend on."""
    near = rules.deduplication.near
    return {
        "views": rules.comparison.views,
        "compare_as_written": sorted(rules.comparison.as_written),
        "cleaning": rules.cleaning.model_dump(mode="json"),
        "deduplication": rules.deduplication.model_dump(mode="json", exclude={"exact"}) if near else None,
        "decontamination": rules.decontamination.model_dump(mode="json", exclude={"sources"}),
        "minhash": MINHASH_VERSION if near else None,
    }


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def _examine(task: _Task) -> Path:
    if not _whole(task.out):
        arrays = _examine_records(task)
        with whole_file(task.out) as scratch:
            _save(scratch, arrays)
    else:
        advance(task.part.records)
    return task.out


def _whole(path: Path) -> bool:
    """Whether the file is there and not damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            return file.testzip() is None and "hits.npy" in file.namelist()
    except (OSError, EOFError, zipfile.BadZipFile):
        return False


def _save(scratch: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with scratch.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def _examine_records(task: _Task) -> dict[str, npt.NDArray[Any]]:
    rules = task.rules
    comparison = rules.comparison
    names = tuple(dict.fromkeys(comparison.views))
    index = _load_index(task) if task.training and task.tests[1] else None
    check = Filter(rules.cleaning)
    verdicts: list[int] = []
    exact: list[bytes] = []
    groups: list[int] = []
    draws: list[int] = []
    ids: list[int] = []
    bands: list[KeyArray] = []
    hits: set[tuple[int, int, int]] = set()
    dropped: Counter[str] = Counter()
    for batch in read_batches(task.part.path, [*(f"view {name}" for name in names), "id", "group"]):
        texts = [wordings(batch[f"view {name}"]) for name in names]
        if len(names) == 1:
            texts.append([[]] * len(texts[0]))
        forms = []
        for first, second, group in zip(*texts, batch["group"].to_pylist(), strict=True):
            usable = check(first, second)
            reason = usable.reason
            if reason is None:
                dropped.update(usable.dropped)
            sides = comparison.sides(usable.first, usable.second)
            if index is not None and (contamination := index.find(*sides)):
                hits.update((test, KINDS.index(kind), item) for test, kind, item in contamination.hits)
                if reason is None and contamination.contaminated and rules.decontamination.action == "drop":
                    reason = "contaminated"
            verdicts.append(CODES[reason or "kept"])
            exact.append(comparison.record_keys(*sides))
            groups.append(0 if group is None else text_key(group) | 1)
            # Equal texts, or records of one group, fall on one side.
            draws.append(draw_key(usable.first, usable.second) if group is None else text_key(group))
            forms.append([words(form) for side in sides for form in side])
        named = batch["id"].to_pylist()
        ids += [0 if name is None else text_key(name) | 1 for name in named]
        if rules.deduplication.near:
            bands.append(band_keys(forms, rules.deduplication))
        advance(len(forms))
    return {
        "verdicts": np.array(verdicts, dtype=np.uint8),
        "exact": np.frombuffer(b"".join(exact), dtype=np.uint64).reshape(-1, comparison.key_count, 2),
        "groups": np.array(groups, dtype=np.uint64),
        "draws": np.array(draws, dtype=np.uint64),
        "ids": np.array(ids, dtype=np.uint64),
        "bands": np.concatenate(bands) if bands else np.zeros((len(verdicts), 0), np.uint64),
        "hits": np.array(sorted(hits), dtype=np.int64).reshape(-1, 3),
        "wordings": np.array([dropped[reason] for reason in Filter.reasons], dtype=np.int64),
    }


def _load_index(task: _Task) -> EvaluationIndex:
    """The test sets, once per process."""
    global _index
    fingerprint, tests = task.tests
    if _index is None or _index[0] != fingerprint:
        index = EvaluationIndex(task.rules.decontamination, task.rules.comparison)
        index.add_parts(tests)
        _index = fingerprint, index
    return _index[1]
