"""Labelled sets in files: a folder, a prefix of file names, or one file."""

import re
from pathlib import Path
from typing import Any

from pretrain.runtime.errors import DiptychError
from pretrain.sources.delimited import DelimitedSource
from pretrain.sources.jsonl import JsonlSource
from pretrain.sources.tables import TableSource
from probes.sets.rows import LabelledRows

_ENDING = r"\.(jsonl|csv|tsv|parquet|arrow)(\.gz|\.zst)?"
_OTHER_TESTS = ("validation", "valid", "val", "dev")


class _LabelledJsonl(LabelledRows, JsonlSource):
    pass


class _LabelledDelimited(LabelledRows, DelimitedSource):
    pass


class _LabelledTable(LabelledRows, TableSource):
    pass


def open_files(paths: list[Path], **columns: Any) -> LabelledRows:
    """A source of rows.

    Args:
        paths: One or more files of one format, told by the ending of the name; compressed text too.
        columns: ``text_columns`` and ``label_column``.

    Raises:
        DiptychError: The ending is none that can be read.
    """
    ending = re.search(_ENDING + "$", paths[0].name)
    if ending is None or (ending[2] and ending[1] in ("parquet", "arrow")):
        raise DiptychError(
            f"{paths[0]}: no format that can be read; convert it to .jsonl, .csv, .tsv (.gz, .zst), .parquet or .arrow"
        )
    kinds = {"jsonl": _LabelledJsonl, "csv": _LabelledDelimited, "tsv": _LabelledDelimited}
    kind: Any = kinds.get(ending[1], _LabelledTable)
    source: LabelledRows = kind(type=ending[1], path=tuple(map(str, paths)), **columns)
    return source


def find_splits(path: Path, train: str | None, test: str | None) -> tuple[list[Path], list[Path] | None, list[str]]:
    """The files of both splits.

    ``train.jsonl`` and ``test.jsonl`` in a folder, or after a prefix (``mine`` finds ``mine_train.jsonl``); several
    files of a split are numbered as on the hub (``train-00000-of-00002.parquet``), where they may lie in ``data``.

    Args:
        path: A folder, a file, or the beginning of the names of files.
        train: Split to train on; none: ``train``.
        test: Split to test on; none: ``test``, or else ``validation``.

    Returns:
        Training files; test files, None where the training files have to be divided; and notes.

    Raises:
        DiptychError: There are no such files, or it is not clear which.
    """
    if path.is_file():
        if train is not None or test is not None:
            raise DiptychError(
                f"{path}: is one file, which has no named splits; leave --train-split and --test-split out"
            )
        return [path], None, []
    folder, prefix = (path, "") if path.is_dir() else (path.parent, path.name)
    splits = _splits(folder, prefix) or (_splits(folder / "data", "") if path.is_dir() else {})
    if not splits:
        what = "holds no data files" if path.is_dir() else "no such file or folder, and no files begin like this"
        raise DiptychError(
            f"{path}: {what}; name train and test files (.jsonl, .csv, .tsv, .parquet, .arrow), or hub:owner/name"
        )
    asked = [split for split in (train, test) if split is not None]
    missing = next((split for split in asked if split not in splits), None)
    if missing is not None:
        raise DiptychError(f"{path}: no split {missing!r}; it has {', '.join(splits)}")
    if len(splits) == 1 and len(set(asked)) < 2:
        return next(iter(splits.values())), None, []
    train = train or "train"
    if train not in splits:
        raise DiptychError(f"{path}: no split 'train'; it has {', '.join(splits)}; name one with --train-split")
    notes = []
    if test is None:
        test = next((name for name in ("test", *_OTHER_TESTS) if name in splits and name != train), None)
        if test is None:
            raise DiptychError(f"{path}: no split 'test'; it has {', '.join(splits)}; name one with --test-split")
        if test != "test":
            notes.append(f"there is no test split; {test} is used")
    return splits[train], None if train == test else splits[test], notes


def _splits(folder: Path, prefix: str) -> dict[str, list[Path]]:
    """Files by the name of their split, sorted by it."""
    pattern = re.compile((re.escape(prefix) + "[._-]?" if prefix else "") + r"(\w+?)(-\d+-of-\d+)?" + _ENDING)
    splits: dict[str, list[Path]] = {}
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        match = pattern.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        files = splits.setdefault(match[1], [])
        if files and not (match[2] and pattern.fullmatch(files[0].name)[3] == match[3]):  # type: ignore[index]
            raise DiptychError(
                f"{path}: split {match[1]!r} is in {files[0].name} as well; remove one, or name the file"
            )
        files.append(path)
    return splits
