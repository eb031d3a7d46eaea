"""Stage 4: kept texts to shards of tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from pretrain.config.data import CleaningConfig
from pretrain.data.corpus import BLOCK, SCHEMA
from pretrain.data.text_encoder import TextEncoder
from pretrain.preparation.cleaning import Filter
from pretrain.preparation.duplicates import text_key
from pretrain.preparation.judging import Judged
from pretrain.preparation.reading import ReadPart, read_batches, wordings
from pretrain.preparation.shards import ShardWriter, describe_shard
from pretrain.preparation.workers import WorkerPool, advance
from pretrain.runtime.atomic_write import whole_file
from pretrain.runtime.errors import DiptychError

SHARDS = 64
"""A source is cut into about so many shards, as long as they are neither below a block nor above the bounds below."""

_MOST_BLOCKS = 64
_MOST_BYTES = 256 << 20


@dataclass(frozen=True)
class Encoding:
    """How texts become tokens.

    Attributes:
        tokenizer: The tokenizer's file (JSON).
        views: The two views.
        max_view_tokens: Where a view is cut.
        cleaning: Which wordings are left out.
    """

    tokenizer: Path
    views: tuple[str, str]
    max_view_tokens: int
    cleaning: CleaningConfig


@dataclass(frozen=True)
class _Task:
    parts: tuple[
        tuple[ReadPart, int, int, int], ...
    ]  # with first record of the verdicts, kept records to skip, to take
    judged: Judged
    split: str
    files: tuple[str, ...]
    encoding: Encoding
    out: Path


def encode(
    parts: Sequence[ReadPart],
    judged: Judged,
    split: str,
    encoding: Encoding,
    folder: Path,
    workers: WorkerPool,
    title: str,
) -> list[dict[str, Any]]:
    """Encodes one source's records of one split.

    Args:
        parts: What was read of the source.
        judged: The verdicts on it.
        split: ``train`` or ``heldout``.
        encoding: How.
        folder: Where the shards go; those that are there already stay.
        workers: Who does it.
        title: Name of the source.

    Returns:
        Description of each shard, with its ``path``.
    """
    files = tuple(dict.fromkeys(file for part in parts for file in part.files))
    tasks = [
        _Task(tuple(segments), judged, split, files, encoding, folder / f"{number:05d}.arrow")
        for number, segments in enumerate(_cut(parts, judged, split))
    ]
    total = judged.count(split)
    return list(workers.run("encoding", _encode, tasks, total=total, unit=f" records of {title}"))


def _cut(parts: Sequence[ReadPart], judged: Judged, split: str) -> Iterator[list[tuple[ReadPart, int, int, int]]]:
    """The pieces of parts that make up each shard."""
    firsts = np.cumsum([0, *(part.records for part in parts)]).tolist()
    kept = [int(judged.kept(split, start, stop).sum()) for start, stop in pairwise(firsts)]
    records = sum(kept)
    if not records:
        return
    num_bytes = max(1, sum(part.num_bytes for part in parts)) / max(1, sum(part.records for part in parts))
    most = max(1, min(_MOST_BLOCKS, int(_MOST_BYTES / num_bytes) // BLOCK))
    size = BLOCK * max(1, min(most, -(-records // (SHARDS * BLOCK))))
    shard: list[tuple[ReadPart, int, int, int]] = []
    room = size
    for part, first, count in zip(parts, firsts, kept, strict=False):
        taken = 0
        while taken < count:
            take = min(room, count - taken)
            shard.append((part, first, taken, take))
            taken += take
            room -= take
            if not room:
                yield shard
                shard, room = [], size
    if shard:
        yield shard


def _encode(task: _Task) -> dict[str, Any]:
    if not task.out.is_file():
        with whole_file(task.out) as scratch:
            _write(task, scratch)
    else:
        advance(sum(take for *_, take in task.parts))
    return {"path": task.out, **describe_shard(task.out)}


def _write(task: _Task, scratch: Path) -> None:
    with pa.OSFile(str(scratch), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        shard = ShardWriter(writer)
        encoder = _Encoder(task)
        for batch, chosen in _kept_batches(task):
            while len(chosen):
                now, chosen = chosen[: shard.room], chosen[shard.room :]
                encoder.add(batch, now, shard)
                shard.flush()
                advance(len(now))
        shard.flush(full=False)


def _kept_batches(task: _Task) -> Iterator[tuple[dict[str, Any], npt.NDArray[np.intp]]]:
    """Record batches and the rows of each that belong to the shard."""
    columns = [*(f"view {name}" for name in dict.fromkeys(task.encoding.views)), "file", "line", "label", "group"]
    for part, first, skip, take in task.parts:
        rows = np.flatnonzero(task.judged.kept(task.split, first, first + part.records))[skip : skip + take]
        ends = np.cumsum(part.batches)
        of = np.searchsorted(ends, rows, side="right")
        numbers, starts = np.unique(of, return_index=True)
        pieces = np.split(rows, starts[1:])
        batches = read_batches(part.path, columns, numbers.tolist())
        for number, piece, batch in zip(numbers, pieces, batches, strict=True):
            yield batch, piece - (ends[number] - part.batches[number])


class _Encoder:
    """Rows of record batches to tokens."""

    def __init__(self, task: _Task) -> None:
        self.task = task
        self.names = tuple(dict.fromkeys(task.encoding.views))
        self.encoder = _text_encoder(task.encoding.tokenizer)
        self.filter = Filter(task.encoding.cleaning)
        self.files = {file: number for number, file in enumerate(task.files)}

    def add(self, batch: dict[str, Any], rows: npt.NDArray[np.intp], shard: ShardWriter) -> None:
        """Encodes some rows into the current block."""
        chosen = pa.array(rows)
        columns = {name: array.take(chosen) for name, array in batch.items()}
        views = usable_wordings([wordings(columns[f"view {name}"]) for name in self.names], self.filter)
        counts = [sum(map(len, texts)) for texts in zip(*views, strict=True)]
        texts = [text for record in zip(*views, strict=True) for own in record for text in own]
        ids = self.encoder.encode_batch(texts)
        places, lines = columns["file"].to_pylist(), columns["line"].to_pylist()
        num_bytes = [len(text) if text.isascii() else len(text.encode()) for text in texts]
        complete = [True] * len(ids)
        limit = self.task.encoding.max_view_tokens
        for number, own in enumerate(ids):
            if not own:
                record = int(np.searchsorted(np.cumsum(counts), number, side="right"))
                raise DiptychError(
                    f"{places[record]}:{lines[record]}: a view has no token under this tokenizer; drop the record"
                )
            if len(own) > limit:
                ids[number] = own[:limit]
                complete[number] = False
                num_bytes[number] = self.encoder.kept_bytes(texts[number], limit)
        shard.block.add(
            ids,
            complete,
            num_bytes,
            counts,
            first_wordings=[len(own) if len(views) == 2 else 0 for own in views[0]],
            file=[self.files[place] for place in places],
            line=lines,
            label=columns["label"].to_pylist(),
            group=[None if group is None else text_key(group) for group in columns["group"].to_pylist()],
        )


def usable_wordings(views: Sequence[list[list[str]]], check: Filter) -> list[list[list[str]]]:
    """The kept wordings of kept records.

    Args:
        views: For each of the two views, or the one, the wordings of every record.
        check: The filter that kept the records.
    """
    kept = [list(view) for view in views]
    for number, record in enumerate(zip(*views, strict=True)):
        if any(len(texts) > 1 for texts in record):
            usable = check(record[0], record[1] if len(record) == 2 else ())
            for view, texts in zip(kept, (usable.first, usable.second), strict=False):
                view[number] = list(texts)
    return kept


@lru_cache(2)
def _text_encoder(path: Path) -> TextEncoder:
    return TextEncoder(path.read_text(encoding="utf-8"))
