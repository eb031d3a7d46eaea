"""Stage 1: parts of sources to clean texts, one Arrow file per part.

The file's name is a hash of what decides its content, so it is made once, whatever else of a config changes. Beside it
lies a summary, written last: no summary, no file.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.ipc

from pretrain.errors import DiptychError
from pretrain.preparation.cleaning import CleaningConfig, clean_text
from pretrain.preparation.workers import Workers, advance, write_whole
from pretrain.sources.files import Files
from pretrain.sources.record import BadRow, Part, Record, Source

FORMAT = 2
"""Changes whenever the same part gives another file."""

LISTED = 100
"""Bad rows that are kept word for word."""

_BATCH_RECORDS = 1024
_BATCH_CHARS = 4 << 20


@dataclass(frozen=True)
class ReadPart:
    """A part that has been read.

    Attributes:
        path: Its Arrow file: a list of wordings per view, ``file``, ``line``, ``id``, ``group`` and ``label``.
        batches: Records of each record batch.
        num_bytes: UTF-8 bytes of all texts.
        files: The files that records name, in the order in which they come.
        bad: Number of bad rows.
        bad_rows: The first of them: ``file:line: problem``.
    """

    path: Path
    batches: tuple[int, ...]
    num_bytes: int
    files: tuple[str, ...]
    bad: int
    bad_rows: tuple[str, ...]

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
    workers: Workers,
) -> list[list[ReadPart]]:
    """Reads every part that was not read before.

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
        for source, own in zip(sources, parts, strict=True)
        for part in own
    ]
    total = sum(task.part.size for task in tasks)
    done = iter(list(workers.run("reading", _read, tasks, total=total, unit="B")))
    return [[next(done) for _ in own] for own in parts]


def part_key(source: Source, part: Part, cleaning: CleaningConfig) -> str:
    """Names the file of a part: a hash of its content, of how it is read and of what is done to its texts."""
    settings = source.settings() | {"name": None}
    place = [part.file, part.first_line]  # stored with every record
    inputs = [FORMAT, settings, part.fingerprint, part.start, part.stop, place, cleaning.text_settings()]
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:32]


def _read(task: _Task) -> ReadPart:
    summary = task.out.with_suffix(".json")
    if summary.is_file() and task.out.is_file():
        read = _stored(task.out, summary)
    else:
        read = _write(task)
        facts = {key: value for key, value in asdict(read).items() if key != "path"}
        write_whole(summary, lambda scratch: _write_text(scratch, json.dumps(facts)))
    if read.bad and not task.skip:
        raise _refusal(read.bad_rows[0])
    advance(task.part.size)
    return read


def _stored(path: Path, summary: Path) -> ReadPart:
    facts = json.loads(summary.read_text(encoding="utf-8"))
    lists = {key: tuple(facts[key]) for key in ("batches", "files", "bad_rows")}
    return ReadPart(path, num_bytes=facts["num_bytes"], bad=facts["bad"], **lists)


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _refusal(row: object) -> DiptychError:
    return DiptychError(f"{row}; or set data.on_bad_row=skip to go on without such rows")


def _write(task: _Task) -> ReadPart:
    names = task.source.view_names()
    schema = pa.schema(
        [(f"view {name}", pa.list_(pa.string())) for name in names]
        + [("file", pa.string()), ("line", pa.int64()), ("id", pa.string()), ("group", pa.string())]
        + [("label", pa.int32())]
    )
    counts = {"num_bytes": 0, "bad": 0}
    batches: list[int] = []
    files: dict[str, None] = {}
    bad_rows: list[str] = []

    def good(rows: Iterator[Record | BadRow]) -> Iterator[Record]:
        for row in rows:
            if isinstance(row, Record):
                yield row
                continue
            if not task.skip:
                raise _refusal(row)
            counts["bad"] += 1
            if len(bad_rows) < LISTED:
                bad_rows.append(str(row))

    def fill(scratch: Path) -> None:
        options = pa.ipc.IpcWriteOptions(compression="lz4")
        with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, schema, options=options) as writer:
            for batch in _batches(good(task.source.read(task.part))):
                columns: list[list[Any]] = [
                    [_clean(record.views[name], task.cleaning) for record in batch] for name in names
                ]
                batches.append(len(batch))
                files.update(dict.fromkeys(record.file for record in batch))
                columns += [[getattr(record, field) for record in batch] for field in schema.names[len(names) :]]
                arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
                counts["num_bytes"] += sum(_text_bytes(array) for array in arrays[: len(names)])
                writer.write_batch(pa.record_batch(arrays, schema=schema))

    write_whole(task.out, fill)
    return ReadPart(task.out, tuple(batches), counts["num_bytes"], tuple(files), counts["bad"], tuple(bad_rows))


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
    """Yields record batches (None: all) of a part file, each as column name (None: all) to Arrow array."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
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


def list_parts(sources: Sequence[Source], files: Files) -> list[list[Part]]:
    """The parts of every source.

    Raises:
        DiptychError: A source matches no file, or two have one name.
    """
    titles = [source.title for source in sources]
    for title in titles:
        if titles.count(title) > 1:
            raise DiptychError(f"data.sources: {titles.count(title)} sources are named {title!r}; give each its name")
    return [list(source.parts(files)) for source in sources]
