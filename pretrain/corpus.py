"""The prepared corpus on disk: memory-mapped tokens of every view, written once and read by every rank."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from pretrain.branches import BoolArray, IntArray, View
from pretrain.errors import DiptychError

CHUNK = 8192
"""Records per Arrow record batch."""


@dataclass(frozen=True)
class TokenizedRecord:
    """One record as it is stored.

    Attributes:
        tokens: Token ids of the two views, without special tokens, cut to the longest allowed view.
        complete: Whether each view is whole.
        num_bytes: UTF-8 bytes of what is left of each view.
        place: Where the record was read.
        label: Class for probing, if the source knows one.
    """

    tokens: tuple[Sequence[int], Sequence[int]]
    complete: tuple[bool, bool]
    num_bytes: tuple[int, int]
    place: str
    label: int | None


_SCHEMA = pa.schema(
    [
        ("first", pa.large_list(pa.int32())),
        ("second", pa.large_list(pa.int32())),
        ("first_complete", pa.bool_()),
        ("second_complete", pa.bool_()),
        ("first_bytes", pa.int32()),
        ("second_bytes", pa.int32()),
        ("place", pa.string()),
        ("label", pa.int32()),
    ]
)


class SplitWriter:
    """Writes one split; use as made by :func:`open_split`."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._pending: list[TokenizedRecord] = []

    def add(self, record: TokenizedRecord) -> None:
        """Appends a record."""
        self._pending.append(record)
        if len(self._pending) == CHUNK:
            self.flush()

    def flush(self) -> None:
        """Writes what is pending."""
        if not self._pending:
            return
        columns: list[list[Any]] = [
            [record.tokens[0] for record in self._pending],
            [record.tokens[1] for record in self._pending],
            [record.complete[0] for record in self._pending],
            [record.complete[1] for record in self._pending],
            [record.num_bytes[0] for record in self._pending],
            [record.num_bytes[1] for record in self._pending],
            [record.place for record in self._pending],
            [record.label for record in self._pending],
        ]
        arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
        self._writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
        self._pending = []


@contextmanager
def open_split(path: Path) -> Iterator[SplitWriter]:
    """Opens a split file for writing."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, _SCHEMA) as writer:
        split = SplitWriter(writer)
        yield split
        split.flush()


class Split:
    """One split, memory-mapped: opening costs the lengths only, tokens are read when a row needs them.

    Attributes:
        lengths: Tokens of the two views; shape [records, 2].
        complete: Whether each view is whole; shape [records, 2].
        num_bytes: Bytes of the two views; shape [records, 2].
    """

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        self._chunks = [[_list_buffers(chunk) for chunk in table[name].chunks] for name in ("first", "second")]
        self._places = table["place"]
        self.labels = table["label"]
        self.lengths: IntArray = np.stack(
            [
                np.concatenate([np.diff(offsets) for offsets, _ in chunks] or [np.zeros(0, np.int64)])
                for chunks in self._chunks
            ],
            axis=1,
        ).astype(np.int64)
        self.complete: BoolArray = np.stack([table[f"{name}_complete"].to_numpy() for name in ("first", "second")], 1)
        self.num_bytes: IntArray = np.stack(
            [table[f"{name}_bytes"].to_numpy().astype(np.int64) for name in ("first", "second")], axis=1
        )

    def __len__(self) -> int:
        return len(self.lengths)

    def views(self, index: int) -> tuple[View, View]:
        """The two views of one record."""
        return self._view(index, 0), self._view(index, 1)

    def place(self, index: int) -> str:
        """Where the record was read."""
        return str(self._places[index])

    def _view(self, index: int, which: int) -> View:
        offsets, values = self._chunks[which][index // CHUNK]
        inside = index % CHUNK
        tokens = values[offsets[inside] : offsets[inside + 1]].tolist()
        return View(tokens, bool(self.complete[index, which]))


def _list_buffers(chunk: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    return chunk.offsets.to_numpy(), chunk.values.to_numpy(zero_copy_only=True)


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        folder: Where it lies.
        manifest: Counts and fingerprints (docs/data.md lists the keys).
        train: Records to train on.
        heldout: Records to evaluate on.
    """

    folder: Path
    manifest: Mapping[str, Any]
    train: Split
    heldout: Split

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for the tokens of both splits."""
        return str(self.manifest["fingerprint"])


def read_corpus(folder: Path) -> Corpus:
    """Opens a prepared corpus.

    Raises:
        DiptychError: The folder holds none, or its files are not those of the manifest.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise DiptychError(f"{folder}: holds no prepared corpus (no manifest.json); run python -m pretrain.prepare")
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DiptychError(f"{path}: missing or cut short; remove {folder} and prepare it again")
    return Corpus(folder, manifest, Split(folder / "train.arrow"), Split(folder / "heldout.arrow"))


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared corpus, None if there is none yet."""
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


def tokens_fingerprint(folder: Path) -> str:
    """SHA-256 over the tokens of both splits: the same wherever the sources were read from."""
    digest = hashlib.sha256()
    for name in ("train.arrow", "heldout.arrow"):
        reader = pa.ipc.open_file(pa.memory_map(str(folder / name)))
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            for column in ("first", "second", "first_complete", "second_complete"):
                values = batch.column(column)
                flat = values.flatten() if pa.types.is_large_list(values.type) else values.cast(pa.int8())
                if pa.types.is_large_list(values.type):
                    digest.update(values.value_lengths().to_numpy().tobytes())
                digest.update(flat.to_numpy(zero_copy_only=False).tobytes())
    return digest.hexdigest()
