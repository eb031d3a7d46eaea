"""Writing shards of tokens (their form: ``pretrain/data/corpus.py``), and describing those that are there."""

import hashlib
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from pretrain.data.corpus import BLOCK, SCHEMA

COUNTS = (
    "records",
    "pair_tokens",
    *(f"{view}_{what}" for view in ("first", "second") for what in ("wordings", "tokens", "bytes", "truncated")),
)
"""Counts of a split, a source or a shard: records, tokens of their pairs (the mean of all pairs that a record
can give), and of both views texts, tokens, bytes, cut texts."""


class Block:
    """Records being gathered into a record batch."""

    def __init__(self) -> None:
        self.records = 0
        self._ids: list[npt.NDArray[np.int32]] = []
        self._lengths: list[int] = []
        self._columns: dict[str, list[Any]] = {
            name: [] for name in ("complete", "bytes", "wordings", *SCHEMA.names[3:])
        }

    def add(
        self,
        ids: Sequence[Sequence[int]],
        complete: Sequence[bool],
        num_bytes: Sequence[int],
        wordings: Sequence[int],
        **columns: Iterable[Any],
    ) -> None:
        """Appends records.

        Args:
            ids: Tokens of all wordings of all records, those of a record together.
            complete: Whether each wording is whole.
            num_bytes: Bytes of each wording.
            wordings: Number of wordings of each record.
            columns: ``first_wordings``, ``file``, ``line``, ``label``, ``group``: one value per record.
        """
        lengths = list(map(len, ids))
        self._lengths += lengths
        self._ids.append(np.fromiter(chain.from_iterable(ids), np.int32, sum(lengths)))
        self.records += len(wordings)
        for name, values in {"complete": complete, "bytes": num_bytes, "wordings": wordings, **columns}.items():
            self._columns[name] += values

    def batch(self) -> Any:
        """The record batch."""
        columns = self._columns
        outer = pa.array(np.concatenate([[0], np.cumsum(columns["wordings"])]), pa.int32())
        inner = pa.array(np.concatenate([[0], np.cumsum(self._lengths)]), pa.int32())
        values = pa.array(np.concatenate(self._ids))
        arrays = [pa.ListArray.from_arrays(outer, pa.ListArray.from_arrays(inner, values))]
        for name, kind in (("complete", pa.bool_()), ("bytes", pa.int32())):
            arrays.append(pa.ListArray.from_arrays(outer, pa.array(columns[name], kind)))
        arrays += [pa.array(columns[field.name], field.type) for field in list(SCHEMA)[3:]]
        return pa.record_batch([array.cast(field.type) for array, field in zip(arrays, SCHEMA, strict=True)], SCHEMA)


class ShardWriter:
    """Writes records as full blocks, in the order in which they come."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self.block = Block()

    @property
    def room(self) -> int:
        """Records that the current block still takes."""
        return BLOCK - self.block.records

    def flush(self, *, full: bool = True) -> None:
        """Writes the block if it is full, or if it need not be."""
        if self.block.records and (not full or self.room == 0):
            self._writer.write_batch(self.block.batch())
            self.block = Block()


def describe_shard(path: Path) -> dict[str, Any]:
    """What the manifest says of a shard: ``COUNTS``, ``longest_pair`` in tokens, ``digest`` (SHA-256 of all tokens)."""
    counts: dict[str, Any] = dict.fromkeys(COUNTS, 0)
    longest = 0
    digest = hashlib.sha256()
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            tokens, firsts = batch.column("tokens"), batch.column("first_wordings").to_numpy()
            outer = tokens.offsets.to_numpy()
            lengths = np.diff(tokens.values.offsets.to_numpy())
            complete = batch.column("complete").values.to_numpy(zero_copy_only=False)
            num_bytes = batch.column("bytes").values.to_numpy()
            wordings = np.diff(outer)
            inside = np.arange(len(lengths)) - np.repeat(outer[:-1], wordings)
            of_second = (inside >= np.repeat(firsts, wordings)) & np.repeat(firsts > 0, wordings)
            counts["records"] += len(batch)
            for view, chosen in (("first", ~of_second), ("second", of_second)):
                counts[f"{view}_wordings"] += int(chosen.sum())
                counts[f"{view}_tokens"] += int(lengths[chosen].sum())
                counts[f"{view}_bytes"] += int(num_bytes[chosen].sum())
                counts[f"{view}_truncated"] += int((~complete[chosen]).sum())
            counts["pair_tokens"] += _pair_tokens(lengths, of_second, outer, firsts)
            longest = max(longest, _longest_pair(lengths, of_second, outer, firsts))
            for part in (wordings, firsts, lengths, complete, tokens.values.values.to_numpy()):
                digest.update(np.ascontiguousarray(part).tobytes())
    return {**counts, "longest_pair": longest, "digest": digest.hexdigest()}


def _pair_tokens(lengths: Any, of_second: Any, outer: Any, firsts: Any) -> float:
    starts, wordings = outer[:-1], np.diff(outer)
    of_first = np.where(firsts > 0, firsts, wordings)
    first = np.add.reduceat(np.where(of_second, 0, lengths), starts) / of_first
    second = np.add.reduceat(np.where(of_second, lengths, 0), starts) / np.maximum(1, wordings - of_first)
    return round(float(np.where(firsts > 0, first + second, 2 * first).sum()), 3)


def _longest_pair(lengths: Any, of_second: Any, outer: Any, firsts: Any) -> int:
    starts = outer[:-1]
    first = np.maximum.reduceat(np.where(of_second, 0, lengths), starts)
    second = np.maximum.reduceat(np.where(of_second, lengths, 0), starts)
    return int(np.where(firsts > 0, first + second, 2 * first).max(initial=0))
