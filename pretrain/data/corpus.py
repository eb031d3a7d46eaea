"""The prepared corpus on disk: memory-mapped tokens of every view, written once and read by every rank.

    FOLDER/manifest.json                    what was kept, dropped and why; the shards of every source
    FOLDER/tokenizer/                       a plain Hugging Face tokenizer
    FOLDER/{train,heldout}/SOURCE/00000.arrow

A shard holds blocks of ``BLOCK`` records (only the last block of a source may hold fewer), so the place of any record
follows from the manifest alone. A shard is opened when one of its records is asked for.
"""

import bisect
import json
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.ipc

from pretrain.data.branches import BoolArray, IntArray, View, ViewPairs
from pretrain.runtime.errors import DiptychError

BLOCK = 8192
"""Records per Arrow record batch."""

FORMAT = 5
"""Of manifest and shards; changes whenever the same inputs give other files."""

SCHEMA = pa.schema(
    [
        ("tokens", pa.list_(pa.list_(pa.int32()))),  # the wordings of the first view, then those of the second
        ("complete", pa.list_(pa.bool_())),  # whether each is whole
        ("bytes", pa.list_(pa.int32())),  # UTF-8 bytes of what is left of each
        ("first_wordings", pa.int16()),  # how many are of the first view; 0: one view, of which two wordings are a pair
        ("file", pa.int32()),  # number in the source's list of files
        ("line", pa.int64()),
        ("label", pa.int32()),
        ("group", pa.uint64()),  # key of the record's group, if it has one
    ]
)

_OPEN_BLOCKS = 4096


@dataclass(frozen=True)
class SourceSpan:
    """One source's records in a split: those numbered ``first`` to ``first + count - 1``.

    Attributes:
        name: The source's name.
        first: Number of its first record.
        count: Number of its records.
        mean_tokens: View tokens of a pair on average.
        where: Path or address, for messages.
        files: Files of the source, for places.
    """

    name: str
    first: int
    count: int
    mean_tokens: float
    where: str
    files: Sequence[str]


@dataclass(frozen=True)
class Pairs:
    """The pair of wordings that each of some records gives; all arrays have shape [records, 2].

    Attributes:
        wordings: Which wordings: numbers within the record.
        lengths: Their tokens.
        complete: Whether each is whole.
        num_bytes: UTF-8 bytes of each.
        starts: Where their tokens begin in the record's block.
    """

    wordings: IntArray
    lengths: IntArray
    complete: BoolArray
    num_bytes: IntArray
    starts: IntArray

    def __getitem__(self, chosen: slice | IntArray) -> "Pairs":
        """The pairs of some of the records."""
        return Pairs(*(getattr(self, field.name)[chosen] for field in fields(self)))


def concatenate(parts: Sequence[Pairs]) -> Pairs:
    """The pairs of all parts, one part behind the other."""
    parts = [_no_pairs(0), *parts]
    return Pairs(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Pairs)))


def _no_pairs(count: int) -> Pairs:
    """Room for pairs."""
    shape = (count, 2)
    numbers = [np.empty(shape, np.int64) for _ in range(4)]
    return Pairs(numbers[0], numbers[1], np.empty(shape, np.bool_), numbers[2], numbers[3])


class CorpusSplit:
    """One split of a corpus: records numbered through all sources, in the order of the config.

    Attributes:
        sources: The spans of the sources.
    """

    def __init__(self, folder: Path, entries: Sequence[Mapping[str, Any]]) -> None:
        """Opens nothing yet.

        Args:
            folder: The corpus.
            entries: For each source ``name``, ``where``, ``files``, ``mean_tokens`` and ``shards`` (``file``,
                ``records``).
        """
        self._folder = folder
        self._shards: list[str] = []
        starts = [0]
        spans = []
        for entry in entries:
            first = starts[-1]
            for shard in entry["shards"]:
                self._shards.append(shard["file"])
                starts.append(starts[-1] + shard["records"])
            count = starts[-1] - first
            spans.append(SourceSpan(entry["name"], first, count, entry["mean_tokens"], entry["where"], entry["files"]))
        self.sources: tuple[SourceSpan, ...] = tuple(spans)
        self._starts = np.array(starts, dtype=np.int64)
        self._readers: OrderedDict[int, Any] = OrderedDict()
        self._blocks: OrderedDict[tuple[int, int], _Block] = OrderedDict()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def pairs(self, records: IntArray, keys: npt.NDArray[np.uint64] | None = None) -> Pairs:
        """The pair that each record gives.

        Args:
            records: Record numbers; shape [records].
            keys: A random number per record, which draws one of its pairs; None: the first pair.
        """
        count = len(records)
        if keys is None:
            keys = np.zeros(count, dtype=np.uint64)
        result = _no_pairs(count)
        inside, order, blocks = self._by_block(records)
        for block, start, stop in blocks:
            chosen = order[start:stop]
            block.draw(inside[chosen] % BLOCK, keys[chosen], chosen, result)
        return result

    def read(self, records: IntArray, pairs: Pairs) -> ViewPairs:
        """The tokens of the pair that :meth:`pairs` found for each record."""
        _, order, blocks = self._by_block(records)
        lengths = pairs.lengths[order]
        stops = np.cumsum(lengths).reshape(-1, 2)
        starts = stops - lengths
        places = np.repeat((pairs.starts[order] - starts).ravel(), lengths.ravel())
        places += np.arange(len(places))
        tokens = np.empty(len(places), np.int32)
        for block, first, last in blocks:
            inside = slice(starts[first, 0], stops[last - 1, 1])
            block.values.take(places[inside], out=tokens[inside], mode="clip")  # other modes copy ``out``
        in_order = np.empty_like(starts)
        in_order[order] = starts
        return ViewPairs(tokens, in_order, pairs.lengths, pairs.complete)

    def _by_block(self, records: IntArray) -> tuple[IntArray, IntArray, Iterator[tuple["_Block", int, int]]]:
        """Records grouped by block, so that each block is looked up once whatever the order asked.

        Returns:
            Number of each record in its shard; the records' places in the order of their blocks; and each block with
            the range of its records in that order.
        """
        shards = np.searchsorted(self._starts, records, side="right") - 1
        inside = records - self._starts[shards]
        number = shards * (1 << 32) + inside // BLOCK
        order = np.argsort(number, kind="stable")
        needed, firsts = (values.tolist() for values in np.unique(number[order], return_index=True))
        blocks = (
            (self._block(one >> 32, one % (1 << 32)), start, stop)
            for one, start, stop in zip(needed, firsts, [*firsts, len(records)][1:], strict=True)
        )
        return inside, order, blocks

    def views(self, record: int, wordings: tuple[int, int] | None = None) -> tuple[View, View]:
        """Two wordings of one record; None: its first pair."""
        block, inside = self._locate(record)
        if wordings is None:
            wordings = (0, max(1, int(block.first_wordings[inside])))
        return block.view(inside, wordings[0]), block.view(inside, wordings[1])

    def wordings(self, record: int) -> tuple[int, int]:
        """How many wordings of the first and of the second view a record has; (n, 0): one view of n wordings."""
        block, inside = self._locate(record)
        count = int(block.outer[inside + 1] - block.outer[inside])
        first = int(block.first_wordings[inside]) or count
        return first, count - first

    def place(self, record: int) -> str:
        """Where the record was read, ``file:line``."""
        block, inside = self._locate(record)
        span = self.sources[bisect.bisect_right([span.first for span in self.sources], record) - 1]
        return f"{span.files[int(block.column('file')[inside])]}:{int(block.column('line')[inside])}"

    def label(self, record: int) -> int | None:
        """Class for probing, if the source knows one."""
        block, inside = self._locate(record)
        value: int | None = block.batch.column("label")[inside].as_py()
        return value

    def group(self, record: int) -> int | None:
        """Key of the group that the record belongs to, if the source names one."""
        block, inside = self._locate(record)
        value: int | None = block.batch.column("group")[inside].as_py()
        return value

    def _locate(self, record: int) -> tuple["_Block", int]:
        if not 0 <= record < len(self):
            raise IndexError(f"record {record} of {len(self)}")
        shard = int(np.searchsorted(self._starts, record, side="right")) - 1
        inside = record - int(self._starts[shard])
        return self._block(shard, inside // BLOCK), inside % BLOCK

    def _block(self, shard: int, number: int) -> "_Block":
        key = (shard, number)
        block = self._blocks.get(key)
        if block is None:
            if shard not in self._readers:
                path = self._folder / self._shards[shard]
                try:
                    self._readers[shard] = pa.ipc.open_file(pa.memory_map(str(path)))
                except pa.ArrowInvalid:
                    raise DiptychError(f"{path}: damaged; remove {self._folder} and prepare it again") from None
                if len(self._readers) > 256:
                    self._readers.popitem(last=False)
            block = self._blocks[key] = _Block(self._readers[shard].get_batch(number))
            if len(self._blocks) > _OPEN_BLOCKS:
                self._blocks.popitem(last=False)
        return block


class _Block:
    """One record batch as numpy arrays that share the file's memory."""

    def __init__(self, batch: Any) -> None:
        self.batch = batch
        tokens = batch.column("tokens")
        self.outer: npt.NDArray[np.int32] = tokens.offsets.to_numpy()
        self.inner: npt.NDArray[np.int32] = tokens.values.offsets.to_numpy()
        self.values: npt.NDArray[np.int32] = tokens.values.values.to_numpy()
        self.first_wordings: npt.NDArray[np.int16] = self.column("first_wordings")

    @cached_property
    def complete(self) -> BoolArray:
        values: BoolArray = self.batch.column("complete").values.to_numpy(zero_copy_only=False)
        return values

    @cached_property
    def num_bytes(self) -> npt.NDArray[np.int32]:
        values: npt.NDArray[np.int32] = self.batch.column("bytes").values.to_numpy()
        return values

    def column(self, name: str) -> Any:
        return self.batch.column(name).to_numpy()

    def view(self, record: int, wording: int) -> View:
        place = int(self.outer[record]) + wording
        return View(self.values[self.inner[place] : self.inner[place + 1]].tolist(), bool(self.complete[place]))

    def draw(self, records: IntArray, keys: npt.NDArray[np.uint64], rows: IntArray, result: Pairs) -> None:
        """Fills the rows of ``result`` for some records of this block."""
        count = (self.outer[records + 1] - self.outer[records]).astype(np.uint64)
        firsts = self.first_wordings[records].astype(np.uint64)
        one = np.uint64(1)
        pool = firsts == 0
        of_first = np.where(pool, count, firsts)
        of_second = np.where(pool, count - one, count - firsts)
        first = keys % of_first
        second = keys // of_first % of_second
        second += np.where(pool, (second >= first).astype(np.uint64), firsts)
        for column, chosen in enumerate((first, second)):
            wording = chosen.astype(np.int64)
            place = self.outer[records] + wording
            result.wordings[rows, column] = wording
            result.lengths[rows, column] = self.inner[place + 1] - self.inner[place]
            result.complete[rows, column] = self.complete[place]
            result.num_bytes[rows, column] = self.num_bytes[place]
            result.starts[rows, column] = self.inner[place]


@dataclass(frozen=True)
class Corpus:
    """A prepared corpus.

    Attributes:
        folder: Where it lies.
        manifest: Counts and fingerprints (docs/data.md lists the keys).
        train: Records to train on.
        heldout: Records to evaluate on.
        seen: Size and time of the last change (ns) of every file when the corpus was opened.
    """

    folder: Path
    manifest: Mapping[str, Any]
    train: CorpusSplit
    heldout: CorpusSplit
    seen: Mapping[str, tuple[int, int]]

    @property
    def fingerprint(self) -> str:
        """SHA-256 that stands for the tokens of both splits."""
        return str(self.manifest["fingerprint"])

    @property
    def longest_pair(self) -> int:
        """Tokens of the longest pair that any record can give."""
        return max(int(counts["longest_pair"]) for counts in self.manifest["splits"].values())

    def check_unchanged(self) -> None:
        """Looks at sizes and times of all files again.

        Raises:
            DiptychError: A file is not what it was when the corpus was opened.
        """
        for name, seen in self.seen.items():
            path = self.folder / name
            try:
                found = _size_and_time(path)
            except FileNotFoundError:
                raise DiptychError(f"{path}: was removed while the run reads it; {_PUT_BACK}") from None
            if found != seen:
                raise DiptychError(
                    f"{path}: was written to while the run reads it ({seen[0]:,} bytes then, {found[0]:,} now); "
                    f"{_PUT_BACK}"
                )


_PUT_BACK = "put it back, or remove the folder to prepare it again; then resume from the last checkpoint"


def read_corpus(folder: Path) -> Corpus:
    """Opens a prepared corpus.

    Raises:
        DiptychError: The folder holds none, or its files are not those of the manifest.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        raise DiptychError(f"{folder}: holds no prepared corpus (no manifest.json); run python -m pretrain.prepare")
    seen = check_files(folder, manifest)
    splits = {name: CorpusSplit(folder, split_entries(manifest, name)) for name in ("train", "heldout")}
    return Corpus(folder, manifest, splits["train"], splits["heldout"], seen)


def check_files(folder: Path, manifest: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """Refuses a corpus of which a file is missing or cut short.

    Returns:
        Size and time of the last change (ns) of every file.
    """
    found = {}
    for name, size in manifest["files"].items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            raise DiptychError(f"{path}: missing or cut short; remove {folder} and prepare it again")
        found[name] = _size_and_time(path)
    return found


def _size_and_time(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def split_entries(manifest: Mapping[str, Any], split: str) -> list[dict[str, Any]]:
    """What :class:`CorpusSplit` needs to know of each source that has records in a split."""
    return [
        {
            "name": source["name"],
            "where": source["where"],
            "files": source["files"],
            "mean_tokens": source[split]["pair_tokens"] / source[split]["records"],
            "shards": source[split]["shards"],
        }
        for source in manifest["sources"]
        if source[split]["records"]
    ]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a prepared corpus, None if there is none yet.

    Raises:
        DiptychError: It is damaged, or of another version of Diptych.
    """
    path = folder / "manifest.json"
    if not path.is_file():
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        known = manifest["format"] == FORMAT
    except (ValueError, KeyError, TypeError):
        known = False
    if not known:
        raise DiptychError(f"{path}: damaged, or of another version; remove {folder} and prepare it again")
    return manifest
