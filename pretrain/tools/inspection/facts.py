"""What there is to say about a prepared corpus."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from pretrain.data.branches import Branches, IntArray
from pretrain.data.corpus import BLOCK, Corpus, CorpusSplit, SourceSpan
from pretrain.data.tokenizer import Tokenizer
from pretrain.preparation.contamination import KINDS
from pretrain.tools.inspection.histogram import Histogram, histogram
from pretrain.tools.inspection.records import RecordFacts, describe_record

MEASURED = 200_000
"""Records, at most, whose lengths are counted."""


@dataclass(frozen=True)
class Amount:
    """Counts of a split, a source or a source's share of a split; every pair of numbers belongs to the two views.

    Where both views are one, all is counted with the first.

    Attributes:
        records: Records.
        wordings: Texts.
        tokens: Their tokens.
        num_bytes: UTF-8 bytes of what is left of them.
        truncated: Texts that were cut.
    """

    records: int
    wordings: tuple[int, int]
    tokens: tuple[int, int]
    num_bytes: tuple[int, int]
    truncated: tuple[int, int]

    @classmethod
    def of(cls, *counts: Mapping[str, Any]) -> "Amount":
        """The sum of some counts of the manifest."""

        def total(what: str) -> tuple[int, int]:
            return sum(one[f"first_{what}"] for one in counts), sum(one[f"second_{what}"] for one in counts)

        records = sum(one["records"] for one in counts)
        return cls(records, total("wordings"), total("tokens"), total("bytes"), total("truncated"))

    @property
    def bytes_per_token(self) -> float:
        """Of both views."""
        return sum(self.num_bytes) / sum(self.tokens) if sum(self.tokens) else 0.0

    @property
    def mean_tokens(self) -> tuple[float, float]:
        """Tokens of a text, by view."""
        first, second = (
            tokens / wordings if wordings else 0.0 for tokens, wordings in zip(self.tokens, self.wordings, strict=True)
        )
        return first, second


@dataclass(frozen=True)
class SourceFacts:
    """One source.

    Attributes:
        name: Its name.
        where: Path or address.
        role: ``train``, or ``heldout`` if none of it is trained on.
        files: Number of its files.
        read: Records that were read.
        bad: Rows that gave no record.
        left_out: Rows that the source's ``keep`` did not want.
        dropped: Records by why they were dropped.
        dropped_wordings: Wordings of other records by why they were dropped.
        train: What is trained on.
        heldout: What is held out.
        both: All that was kept.
    """

    name: str
    where: str
    role: str
    files: int
    read: int
    bad: int
    left_out: int
    dropped: Mapping[str, int]
    dropped_wordings: Mapping[str, int]
    train: Amount
    heldout: Amount
    both: Amount


@dataclass(frozen=True)
class Leak:
    """Items of a test set in a training source: how many were found, and how many there are, for each of ``KINDS``."""

    test: str
    source: str
    found: tuple[int, ...]
    items: tuple[int, ...]


@dataclass(frozen=True)
class Facts:
    """Everything that the page and the terminal show.

    Attributes:
        folder: The corpus.
        prepared: When it was finished.
        fingerprint: Of its tokens.
        disk_bytes: What it takes on disk.
        vocab_size: Of its tokenizer.
        views: Names of the two views.
        max_view_tokens: Where a text is cut.
        splits: By name.
        longest_pair: Tokens of the longest pair of each split.
        sources: In the order of the config.
        duplicates: ``of``, ``in``, ``reason`` and ``records``, as in the manifest.
        test_sets: Name, place and number of records of each.
        leaks: One for each test set and training source.
        bad_rows: The first of them.
        notes: What the preparation wants to be looked at.
        histograms: Lengths of the first view, the second view and the pair, of training records.
        measured: Records in the histograms, and training records in all.
        branches: How pairs are laid out.
        bos: Name of the first token of a root.
        eos: Name of the token that ends a text.
        records: A few of every source.
    """

    folder: Path
    prepared: datetime
    fingerprint: str
    disk_bytes: int
    vocab_size: int
    views: tuple[str, str]
    max_view_tokens: int
    splits: Mapping[str, Amount]
    longest_pair: Mapping[str, int]
    sources: tuple[SourceFacts, ...]
    duplicates: tuple[Mapping[str, Any], ...]
    test_sets: tuple[tuple[str, str, int], ...]
    leaks: tuple[Leak, ...]
    bad_rows: tuple[str, ...]
    notes: tuple[str, ...]
    histograms: tuple[Histogram, ...]
    measured: tuple[int, int]
    branches: Branches
    bos: str
    eos: str
    records: tuple[RecordFacts, ...]

    @property
    def view_titles(self) -> tuple[str, ...]:
        """Names of the views that are counted apart: one where both views are one."""
        return tuple(dict.fromkeys(self.views))

    @property
    def bad(self) -> int:
        """Bad rows of all sources."""
        return sum(source.bad for source in self.sources)

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why records were dropped."""
        return tuple(dict.fromkeys(reason for source in self.sources for reason in source.dropped))


def gather(corpus: Corpus, tokenizer: Tokenizer, branches: Branches, records: int) -> Facts:
    """Computes the facts.

    Args:
        corpus: The corpus.
        tokenizer: Its tokenizer.
        branches: How to lay out pairs.
        records: How many records of every source to show.
    """
    manifest = corpus.manifest
    path = corpus.folder / "manifest.json"
    views = (manifest["views"][0], manifest["views"][1])
    items = {test["name"]: tuple(test[kind] for kind in KINDS) for test in manifest["test_sets"]}
    histograms, measured = _histograms(corpus.train, views)
    return Facts(
        folder=corpus.folder,
        prepared=datetime.fromtimestamp(path.stat().st_mtime),
        fingerprint=corpus.fingerprint,
        disk_bytes=sum(manifest["files"].values()) + path.stat().st_size,
        vocab_size=manifest["vocab_size"],
        views=views,
        max_view_tokens=manifest["inputs"]["max_view_tokens"],
        splits={name: Amount.of(counts) for name, counts in manifest["splits"].items()},
        longest_pair={name: counts["longest_pair"] for name, counts in manifest["splits"].items()},
        sources=tuple(
            SourceFacts(
                name=source["name"],
                where=source["where"],
                role=source["role"],
                files=len(source["files"]),
                read=source["read"],
                bad=source["bad"],
                left_out=source["left_out"],
                dropped=source["dropped"],
                dropped_wordings=source["dropped_wordings"],
                train=Amount.of(source["train"]),
                heldout=Amount.of(source["heldout"]),
                both=Amount.of(source["train"], source["heldout"]),
            )
            for source in manifest["sources"]
        ),
        duplicates=tuple(manifest["duplicates"]),
        test_sets=tuple((test["name"], test["where"], test["records"]) for test in manifest["test_sets"]),
        leaks=tuple(
            Leak(leak["test"], leak["in"], tuple(leak[kind] for kind in KINDS), items[leak["test"]])
            for leak in manifest["leaks"]
        ),
        bad_rows=tuple(manifest["bad_rows"]),
        notes=tuple(manifest["notes"]),
        histograms=histograms,
        measured=(measured, len(corpus.train)),
        branches=branches,
        bos=_name(tokenizer, tokenizer.bos),
        eos=_name(tokenizer, tokenizer.eos),
        records=tuple(_records(corpus, views, tokenizer, branches, records)),
    )


def _name(tokenizer: Tokenizer, number: int) -> str:
    return str(tokenizer.hf.convert_ids_to_tokens(number))


def _records(
    corpus: Corpus, views: tuple[str, str], tokenizer: Tokenizer, branches: Branches, count: int
) -> list[RecordFacts]:
    """So many records of every source, evenly drawn; of those trained on, if there are any."""
    spans: dict[str, tuple[str, CorpusSplit, SourceSpan]] = {}
    for title, split in (("train", corpus.train), ("heldout", corpus.heldout)):
        for span in split.sources:
            spans.setdefault(span.name, (title, split, span))
    chosen = (spans[source["name"]] for source in corpus.manifest["sources"] if source["name"] in spans)
    return [
        describe_record(split, title, span.name, span.first + place, views, tokenizer, branches)
        for title, split, span in chosen
        for place in spread(span.count, count)
    ]


def spread(total: int, count: int) -> list[int]:
    """``count`` numbers below ``total``, or all of them, evenly spread."""
    count = min(count, total)
    return [(2 * number + 1) * total // (2 * count) for number in range(count)]


def _histograms(split: CorpusSplit, views: tuple[str, str]) -> tuple[tuple[Histogram, ...], int]:
    """Lengths of one pair of every record, or of those in an even draw of blocks; and the number of records."""
    blocks = [
        (first, min(first + BLOCK, span.first + span.count))
        for span in split.sources
        for first in range(span.first, span.first + span.count, BLOCK)
    ]
    if len(split) > MEASURED:
        blocks = [blocks[number] for number in spread(len(blocks), max(1, MEASURED // BLOCK))]
    lengths = _lengths(split, blocks)
    titles = views if views[0] != views[1] else (f"{views[0]}, one wording", f"{views[1]}, another wording")
    made = (
        histogram(titles[0], lengths[:, 0]),
        histogram(titles[1], lengths[:, 1]),
        histogram("a pair", lengths.sum(axis=1)),
    )
    return tuple(one for one in made if one is not None), len(lengths)


def _lengths(split: CorpusSplit, blocks: Sequence[tuple[int, int]]) -> IntArray:
    """Tokens of one pair of every record, drawn by a fixed seed; shape [records, 2]."""
    numbers: IntArray = np.concatenate([np.arange(*block) for block in blocks] or [np.zeros(0, np.int64)])
    keys = np.random.default_rng(0).integers(0, 2**63, len(numbers), dtype=np.uint64)
    return split.pairs(numbers, keys).lengths
