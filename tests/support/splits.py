"""A split that is not on disk: records with wordings of random lengths, and the same methods as `CorpusSplit`."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from pretrain.data.branches import View, ViewPairs
from pretrain.data.corpus import Pairs, SourceSpan
from pretrain.data.order import random_keys


class MadeSplit:
    """Sources of so many records; every record has one view of two to four wordings, of 1 to `longest` tokens each."""

    def __init__(self, counts: Mapping[str, int], longest: int = 12, seed: int = 0, wordings: int = 4) -> None:
        draw = np.random.default_rng([seed, *counts.values()])
        total = sum(counts.values())
        self.num_wordings = draw.integers(2, wordings + 1, total)
        self.lengths = draw.integers(1, longest + 1, (total, wordings))
        self.complete = draw.random((total, wordings)) < 0.8
        spans, first = [], 0
        for name, count in counts.items():
            inside = slice(first, first + count)
            used = np.arange(wordings) < self.num_wordings[inside, None]
            tokens = int((self.lengths[inside] * used).sum())
            spans.append(
                SourceSpan(name, first, count, 2 * tokens / int(used.sum()), f"{name}.jsonl", (f"{name}.jsonl",))
            )
            first += count
        self.sources = tuple(spans)

    def __len__(self) -> int:
        return len(self.lengths)

    def pairs(self, records: Any, keys: Any = None) -> Pairs:
        if keys is None:
            keys = np.zeros(len(records), np.uint64)
        count = self.num_wordings[records].astype(np.uint64)
        first = keys % count
        second = keys // count % (count - np.uint64(1))
        second += second >= first
        wordings = np.stack([first, second], axis=1).astype(np.int64)
        lengths = np.take_along_axis(self.lengths[records], wordings, axis=1)
        complete = np.take_along_axis(self.complete[records], wordings, axis=1)
        return Pairs(wordings, lengths, complete, 2 * lengths, np.zeros_like(lengths))

    def read(self, records: Any, pairs: Pairs) -> ViewPairs:
        wordings = map(tuple, pairs.wordings.tolist())
        return ViewPairs.of([self.views(*drawn) for drawn in zip(records.tolist(), wordings, strict=True)])

    def views(self, record: int, wordings: tuple[int, int] = (0, 1)) -> tuple[View, View]:
        """Tokens 3 to 56, drawn by record and wording."""
        first, second = (
            View(
                (
                    3 + random_keys(record, "tokens", wording, int(self.lengths[record, wording])) % np.uint64(54)
                ).tolist(),
                bool(self.complete[record, wording]),
            )
            for wording in wordings
        )
        return first, second

    def place(self, record: int) -> str:
        return f"record:{record}"
