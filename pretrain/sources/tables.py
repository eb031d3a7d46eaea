"""Parquet and Arrow files."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import ColumnSource, FileColumnSource
from pretrain.sources.files import Files
from pretrain.sources.lines import RestLost
from pretrain.sources.opening import local_path, open_bytes, reading
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Item

Kind = Literal["parquet", "arrow"]

_PART_BYTES = 64 << 20
_BATCH_ROWS = 1024
_TWICE = ("Multiple matches for FieldRef", "was specified twice")


class TableSource(FileColumnSource):
    """Parquet files, or Arrow files of either kind (IPC file, IPC stream); the line of a record is its row."""

    type: Kind

    def parts(self, files: Files) -> Sequence[Part]:
        """Row groups or record batches that together have about 64 MiB.

        Raises:
            DiptychError: A file is damaged, of another format, or lacks a column or has one twice.
        """
        parts: list[Part] = []
        for path in files.match(self.path):
            with open_table(path, self.type) as table:
                self.needed(table.names, path)
                whole = files.whole(path)
                parts += [replace(part, watched=whole.watched) for part in cut(path, whole.fingerprint, table.sizes())]
        files.save()
        return parts

    def read(self, part: Part) -> Iterator[Item]:
        """Yields what the rows of a part give, in their order."""
        with open_table(part.file, self.type) as table:
            batches = table.batches(part.start, part.stop, self.needed(table.names, part.file))
            yield from table_records(self, batches, part.file, part.first_line)


class ParquetTable:
    """A Parquet file; its pieces are row groups."""

    def __init__(self, source: Any) -> None:
        self._file = pq.ParquetFile(source)
        self.schema = self._file.schema_arrow
        self.names: list[str] = self.schema.names

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Bytes and rows of every piece."""
        for index in range(self._file.num_row_groups):
            group = self._file.metadata.row_group(index)
            yield group.total_byte_size, group.num_rows

    def batches(self, start: int, stop: int | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of pieces start to stop, some at a time."""
        groups = range(start, self._file.num_row_groups if stop is None else stop)
        yield from self._file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=columns)


class ArrowTable:
    """An Arrow IPC file or stream; its pieces are record batches."""

    def __init__(self, source: Any) -> None:
        self._is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        self._reader: Any = (pa.ipc.open_file if self._is_file else pa.ipc.open_stream)(source)
        self.schema = self._reader.schema
        self.names: list[str] = self.schema.names

    def sizes(self) -> Iterator[tuple[int, int]]:
        """Bytes and rows of every piece; reads an IPC stream to its end."""
        for batch in self._pieces(0, None):
            yield batch.get_total_buffer_size(), batch.num_rows  # nbytes trusts offsets, also damaged ones

    def batches(self, start: int, stop: int | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows of pieces start to stop, some at a time."""
        for batch in self._pieces(start, stop):
            for row in range(0, batch.num_rows, _BATCH_ROWS):
                yield batch.select(columns).slice(row, _BATCH_ROWS)

    def _pieces(self, start: int, stop: int | None) -> Iterator[pa.RecordBatch]:
        if self._is_file:
            last = self._reader.num_record_batches if stop is None else stop
            yield from map(self._reader.get_batch, range(start, last))
        else:
            yield from islice(self._reader, start, stop)


@contextlib.contextmanager
def open_table(path: str, kind: Kind) -> Iterator[ParquetTable | ArrowTable]:
    """Opens a Parquet or Arrow file; only what is asked for is read.

    Raises:
        DiptychError: It cannot be opened, or the file is damaged, cut short, of another format, or has a column twice.
    """
    local = local_path(path)
    with reading(path):
        if local is not None:
            open(local, "rb").close()  # raises a short reason if it cannot be read; Arrow's messages are long
    try:
        with pa.memory_map(local) if local is not None else open_bytes(path) as source:
            table = (ParquetTable if kind == "parquet" else ArrowTable)(source)
            _refuse_twice(table.schema, path)
            yield table
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last of a column's name
        raise DiptychError(
            f"{path}: is no complete {kind.capitalize()} file ({_one_line(error)}); copy it again or correct the type"
        ) from None


def cut(path: str, fingerprint: str, sizes: Iterable[tuple[int, int]]) -> Iterator[Part]:
    """Yields parts of whole pieces of a table with about 64 MiB each.

    Args:
        path: The file.
        fingerprint: Of its content.
        sizes: Bytes and rows of its pieces.
    """
    start = size = rows = 0
    line = 1
    stop = 0
    for stop, (piece_bytes, piece_rows) in enumerate(sizes, start=1):
        size, rows = size + piece_bytes, rows + piece_rows
        if size >= _PART_BYTES:
            yield Part(path, _digest(fingerprint, start, stop), size, start, stop, line)
            start, line, size, rows = stop, line + rows, 0, 0
    if stop > start or stop == 0:
        yield Part(path, _digest(fingerprint, start, stop), size, start, stop, line)


def table_records(source: ColumnSource, batches: Iterable[Any], file: str, first_line: int) -> Iterator[Item]:
    """Yields what the rows of batches or tables give; one that Arrow cannot give, and damage, is a ``BadRow``."""
    line = first_line
    try:
        for batch in batches:
            for row in _rows(batch):
                yield BadRow(file, line, row) if isinstance(row, str) else source.to_record(row, file, line)
                line += 1
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and (type(error) is not OSError or error.errno):  # disk or network, not the file
            raise DiptychError(f"{file}: cannot be read ({_one_line(error)}); try again") from error
        if any(words in str(error) for words in _TWICE):  # of a data set, whose files only its library opens
            raise DiptychError(f"{file}: a column is there twice ({_one_line(error)}); rename one") from error
        yield RestLost(
            file, line, f"the file is damaged ({_one_line(error)}), and rows from here on are lost; copy it again"
        )


def _refuse_twice(fields: Iterable[pa.Field], path: str) -> None:
    """Refuses a column or field that is there twice, at any depth; readers take the first or the last silently."""
    fields = list(fields)
    names = [field.name for field in fields]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DiptychError(f"{path}: column {twice[:40]!r} is there twice; rename one")
    for field in fields:
        _refuse_twice([field.type.field(index) for index in range(field.type.num_fields)], path)


def _rows(batch: Any) -> Iterator[dict[str, Any] | str]:
    """Yields the rows, or what is wrong with a row that is no text.

    Raises:
        pa.ArrowException: The file is damaged. Arrow itself would read memory that is not the batch's.
    """
    try:
        batch.validate(full=True)
    except pa.ArrowInvalid:
        rows = (_row(batch.slice(index, 1)) for index in range(batch.num_rows))
    else:
        rows = batch.to_pylist()
    yield from rows


def _row(batch: Any) -> dict[str, Any] | str:
    for column in batch.columns:
        try:
            column.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error):
                raise
    try:
        row: dict[str, Any] = batch.to_pylist()[0]
        return row
    except UnicodeDecodeError as error:
        return f"a text is not valid UTF-8 ({error.reason} at byte {error.start + 1}); write the table again"


def _digest(fingerprint: str, start: int, stop: int) -> str:
    return hashlib.sha256(f"{fingerprint} {start} {stop}".encode()).hexdigest()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
