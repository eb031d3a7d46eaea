"""Stage 1: parts of sources to clean texts, as Arrow files.

The file's name is a hash of what decides its content, so it is made once, whatever else of a config changes. Beside it
lies a summary, written last: no summary, no file. A part that cannot be cut beforehand (a compressed file) and holds
much text becomes several files, so that no later stage sees more than a bounded piece.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from pretrain.config.data import CleaningConfig
from pretrain.preparation.cleaning import clean_text
from pretrain.preparation.workers import WorkerPool, advance
from pretrain.runtime.atomic_write import whole_file, write_text
from pretrain.runtime.errors import DiptychError
from pretrain.sources.files import Files
from pretrain.sources.opening import reading
from pretrain.sources.part import Part
from pretrain.sources.record import Item, LeftOut, Record, Source

FORMAT = 4
"""Changes whenever the same part gives another file."""

LISTED = 100
"""Bad rows that are kept word for word."""

_BATCH_RECORDS = 1024
_BATCH_CHARS = 4 << 20
_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class ReadPart:
    """A file of records that have been read.

    Attributes:
        path: Its Arrow file: a list of wordings per view, ``file``, ``line``, ``id``, ``group`` and ``label``.
        batches: Records of each record batch.
        num_bytes: UTF-8 bytes of all texts.
        files: The files that records name, in the order in which they come.
        bad: Number of bad rows.
        bad_rows: The first of them: ``file:line: problem``.
        left_out: Number of rows that ``keep`` did not want.
    """

    path: Path
    batches: tuple[int, ...]
    num_bytes: int
    files: tuple[str, ...]
    bad: int
    bad_rows: tuple[str, ...]
    left_out: int

    @property
    def records(self) -> int:
        """Number of records."""
        return sum(self.batches)


@dataclass(frozen=True)
class _Task:
    source: Source
    part: Part
    cleaning: CleaningConfig
    out: Path
    skip: bool


def read_sources(
    sources: Sequence[Source],
    parts: Sequence[Sequence[Part]],
    cleaning: CleaningConfig,
    folder: Path,
    *,
    skip: bool,
    workers: WorkerPool,
) -> list[list[ReadPart]]:
    """Reads every part that is not in the cache yet.

    Args:
        sources: All sources.
        parts: The parts of each.
        cleaning: What is done to texts.
        folder: Where part files lie.
        skip: Leave out bad rows and count them, instead of stopping at the first.
        workers: Who does it.

    Raises:
        DiptychError: A bad row, if they are not to be skipped.
    """
    tasks = [
        _Task(source, part, cleaning, folder / f"{part_key(source, part, cleaning)}.arrow", skip)
        for source, source_parts in zip(sources, parts, strict=True)
        for part in source_parts
    ]
    total = sum(task.part.size for task in tasks)
    done = iter(list(workers.run("reading", _read, tasks, total=total, unit="B")))
    return [[read for _ in source_parts for read in next(done)] for source_parts in parts]


def part_key(source: Source, part: Part, cleaning: CleaningConfig) -> str:
    """Names the file of a part: a hash of its content, of how it is read and of what is done to its texts."""
    settings = source.settings() | {"name": None}
    position = [part.file, part.first_line]  # stored with every record
    inputs = [FORMAT, settings, part.fingerprint, part.start, part.stop, position, cleaning.text_settings()]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _read(task: _Task) -> list[ReadPart]:
    summary = task.out.with_suffix(".json")
    read = _stored(task.out, summary)
    if read is None:
        _check_unchanged(task.part)
        read = _write(task)
        _check_unchanged(task.part)
        facts = [asdict(part) | {"path": part.path.name, "sha256": _digest(part.path)} for part in read]
        write_text(summary, json.dumps(facts))
    else:
        advance(task.part.size)
    if not task.skip and (bad := [row for part in read for row in part.bad_rows]):
        raise refusal(bad[0])
    return read


def _check_unchanged(part: Part) -> None:
    """A file that changes between its hashing and here would be known by the wrong hash ever after."""
    for file, *state in part.watched:
        with reading(file):
            found = os.stat(file)
        if [found.st_size, found.st_mtime_ns] != state:
            raise DiptychError(f"{file}: changed while it was being read; start again when it is at rest")


def _stored(path: Path, summary: Path) -> list[ReadPart] | None:
    """What was made of a part before; None: nothing, or it is damaged."""
    try:
        read = []
        for facts in json.loads(summary.read_text(encoding="utf-8")):
            file = path.with_name(facts["path"])
            if _digest(file) != facts["sha256"]:
                return None
            kept: dict[str, Any] = {key: tuple(facts[key]) for key in ("batches", "files", "bad_rows")}
            kept |= {key: facts[key] for key in ("num_bytes", "bad", "left_out")}
            read.append(ReadPart(file, **kept))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return read or None


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def refusal(row: object) -> DiptychError:
    """The error of a bad row that is not to be skipped."""
    return DiptychError(f"{row}; or set data.on_bad_row=skip to go on without such rows")


def _write(task: _Task) -> list[ReadPart]:
    names = task.source.view_names()
    schema = pa.schema(
        [(f"view {name}", pa.list_(pa.string())) for name in names]
        + [("file", pa.string()), ("line", pa.int64()), ("id", pa.string()), ("group", pa.string())]
        + [("label", pa.int32())]
    )
    bad = left_out = shown = 0
    bad_rows: list[str] = []

    def good(rows: Iterator[Item]) -> Iterator[Record]:
        nonlocal bad, left_out
        for row in rows:
            if isinstance(row, Record):
                yield row
                continue
            if isinstance(row, LeftOut):
                left_out += 1
                continue
            if not task.skip:
                raise refusal(row)
            bad += 1
            if len(bad_rows) < LISTED:
                bad_rows.append(str(row))

    pending = _batches(good(task.source.read(task.part)))
    read: list[ReadPart] = []
    while True:
        path = task.out.with_stem(f"{task.out.stem}-{len(read)}") if read else task.out
        counts: list[int] = []
        files: dict[str, None] = {}
        num_bytes = 0
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with (
            whole_file(path) as scratch,
            pa.OSFile(str(scratch), "wb") as sink,
            pa.ipc.new_file(sink, schema, options=options) as writer,
        ):
            for batch in pending:
                columns: list[list[Any]] = [
                    [_clean(record.views[name], task.cleaning) for record in batch] for name in names
                ]
                counts.append(len(batch))
                files.update(dict.fromkeys(record.file for record in batch))
                columns += [[getattr(record, field) for record in batch] for field in schema.names[len(names) :]]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                batch_bytes = sum(_text_bytes(array) for array in arrays[: len(names)])
                num_bytes += batch_bytes
                # The size of a compressed file's content is unknown: the bar never runs ahead of the part.
                step = max(0, min(batch_bytes, int(0.95 * task.part.size) - shown))
                shown += step
                advance(step)
                writer.write_batch(pa.record_batch(arrays, schema=schema))
                if num_bytes >= _FILE_BYTES:
                    break
        ended = num_bytes < _FILE_BYTES
        if counts or not read:
            found = (bad, tuple(bad_rows), left_out) if ended else (0, (), 0)
            read.append(ReadPart(path, tuple(counts), num_bytes, tuple(files), *found))
        else:  # the file before was just full
            path.unlink(missing_ok=True)
            read[-1] = replace(read[-1], bad=bad, bad_rows=tuple(bad_rows), left_out=left_out)
        if ended:
            advance(task.part.size - shown)
            return read


def _clean(wordings: Sequence[str], cleaning: CleaningConfig) -> list[str]:
    if len(wordings) == 1:
        return [clean_text(wordings[0], cleaning)]
    return list(dict.fromkeys(clean_text(text, cleaning) for text in wordings))


def _text_bytes(array: Any) -> int:
    return pc.sum(pc.binary_length(array.values)).as_py() or 0


def _batches(records: Iterator[Record]) -> Iterator[list[Record]]:
    """Bounded in records and in characters."""
    batch: list[Record] = []
    size = 0
    for record in records:
        batch.append(record)
        size += sum(len(text) for wordings in record.views.values() for text in wordings)
        if len(batch) == _BATCH_RECORDS or size >= _BATCH_CHARS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def read_batches(
    path: Path, columns: Sequence[str] | None, numbers: Sequence[int] | None = None
) -> Iterator[dict[str, Any]]:
    """Yields record batches (None: all) of a part file, each as column name (None: all) to Arrow array.

    Raises:
        DiptychError: The file is damaged.
    """
    with pa.memory_map(str(path)) as source:
        try:
            reader = pa.ipc.open_file(source)
        except pa.ArrowInvalid:
            raise DiptychError(f"{path}: damaged; remove it, and its source will be read again") from None
        for number in range(reader.num_record_batches) if numbers is None else numbers:
            batch = reader.get_batch(number)
            yield {name: batch.column(name) for name in columns or batch.schema.names}


def wordings(array: Any) -> list[list[str]]:
    """The texts of a view column."""
    texts = array.flatten().to_pylist()
    if len(texts) == len(array):
        return [[text] for text in texts]
    ends = array.value_lengths().to_numpy().cumsum().tolist()
    return [texts[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def list_parts(sources: Sequence[Source], files: Files, key: str = "data.sources") -> list[list[Part]]:
    """The parts of every source.

    Raises:
        DiptychError: A source matches no file, or two have one name.
    """
    titles = [source.title for source in sources]
    for title in titles:
        if titles.count(title) > 1:
            raise DiptychError(f"{key}: {titles.count(title)} sources are named {title!r}; give each its name")
    return [list(source.parts(files)) for source in sources]
