"""Duplicates within and across sources, in bounded memory.

Every record has keys: one of its texts (exact), one per MinHash band (near). Sorted, records that share a key stand
together, and the first of them in the order of the sources stays. Keys that do not fit in memory are first spread over
buckets on disk, by their leading bits, and sorted bucket by bucket.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rensa import RMinHash

from pretrain.config.data import DeduplicationConfig
from pretrain.data.branches import IntArray

KeyArray = npt.NDArray[np.uint64]

BUCKET = 1 << 20
"""Keys that are sorted in memory at once (more in corpora of over ``_MOST_BUCKETS`` times as many)."""

_MOST_BUCKETS = 512  # all of them are open files

MINHASH_VERSION = RMinHash.ALGORITHM_VERSION
"""Part of fingerprints: another version may give other keys."""


def text_key(text: str) -> int:
    """64-bit key of an id or a group."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def band_keys(texts: Sequence[Sequence[str]], config: DeduplicationConfig) -> KeyArray:
    """Keys of the MinHash bands of some records; shape [records, bands].

    Args:
        texts: For each record all its texts, as words with single spaces.
        config: Number of bands and their size.
    """
    shingles = [sorted({gram for text in own for gram in _ngrams(text, config.ngram)}) for own in texts]
    hashes = RMinHash.digest_matrix_from_token_sets(shingles, config.bands * config.band_hashes, 1).to_rows()
    bands = np.array(hashes, dtype=np.uint64).reshape(len(texts), config.bands, config.band_hashes)
    keys = np.full(bands.shape[:2], 0x9E3779B97F4A7C15, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for column in range(config.band_hashes):
            keys = (keys ^ bands[:, :, column]) * np.uint64(0xBF58476D1CE4E5B9)
            keys ^= keys >> np.uint64(29)
    return keys


def _ngrams(text: str, size: int) -> list[str]:
    """All n-grams of words; the whole text if it has no more words than that."""
    words = text.split(" ")
    if len(words) <= size:
        return [text] if text else []
    return [" ".join(words[start : start + size]) for start in range(len(words) - size + 1)]


def repeats(
    chunks: Callable[[], Iterable[tuple[IntArray, KeyArray]]], count: int, scratch: Path
) -> Iterator[tuple[IntArray, IntArray]]:
    """Finds records whose key an earlier record has.

    Args:
        chunks: Gives the records in ascending order with their keys; shapes [n] and [n] or [n, 2] (128 bits).
        count: Number of records in all, or more.
        scratch: Folder for buckets, if they are needed.

    Yields:
        Arrays of records and, for each, the first record with its key.
    """
    buckets = min(_MOST_BUCKETS, -(-count // BUCKET))
    if buckets <= 1:
        gathered = list(chunks())
        if gathered:
            yield _repeats(*(np.concatenate(arrays) for arrays in zip(*gathered, strict=True)))
        return
    files = [(scratch / f"bucket-{number:05d}").open("w+b") for number in range(buckets)]
    try:
        width = 0
        for records, keys in chunks():
            rows = np.column_stack([records.astype(np.uint64), keys])
            width = rows.shape[1]
            of = (rows[:, 1] >> np.uint64(32)) * np.uint64(buckets) >> np.uint64(32)
            order = np.argsort(of, kind="stable")
            ends = np.searchsorted(of[order], np.arange(1, buckets + 1, dtype=np.uint64))
            for file, start, end in zip(files, [0, *ends[:-1]], ends, strict=True):
                if end > start:
                    file.write(rows[order[start:end]].tobytes())
        for file in files:
            file.seek(0)
            rows = np.frombuffer(file.read(), dtype=np.uint64).reshape(-1, width or 2)
            yield _repeats(rows[:, 0].astype(np.int64), rows[:, 1:])
    finally:
        for file in files:
            file.close()
            Path(file.name).unlink()


def _repeats(records: IntArray, keys: KeyArray) -> tuple[IntArray, IntArray]:
    if not len(records):
        return records, records
    keys = keys.reshape(len(records), -1)
    order = np.lexsort((records, *keys.T))
    same = np.all(keys[order[1:]] == keys[order[:-1]], axis=1)
    new = np.concatenate([[True], ~same])
    first = order[np.maximum.accumulate(np.where(new, np.arange(len(order)), 0))]
    return records[order[~new]], records[first[~new]]
