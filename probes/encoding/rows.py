"""Packing texts into rows: several short texts share one, under a block-diagonal mask.

Texts are taken longest first in batches of about equally many positions. Within a batch they go by best-fit decreasing
into rows as long as its longest text, or :data:`ROW` positions: so neither padding nor the attention to other texts'
positions, which the mask then hides, costs much. Where its texts are of nearly one length each gets a row of its own,
which hides nothing.
"""

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pretrain.data.branches import IntArray

ROW = 128
"""Positions of a row of short texts."""

PADDING = 1.05
"""Positions for each token up to which padding is cheaper than a mask."""

Batch = list[list[int]]
"""Rows of text numbers."""


@dataclass(frozen=True)
class PackedRows:
    """Tensors of one forward pass; its texts are numbered row by row.

    Attributes:
        numbers: Number of each text; shape [texts].
        ids: Token ids, shape [rows, length].
        positions: Position ids, 0 where a text begins and in padding; shape [rows, length].
        segments: Number of the text within its row, one more for padding; shape [rows, length].
        starts: Flat position of each text's first token; shape [texts].
        stops: Flat position after its own last one; shape [texts].
        ends: Flat position of the last token appended to it, or of its own last one; shape [texts].
        single: True if no row holds more than one text.
    """

    numbers: IntArray
    ids: Tensor
    positions: Tensor
    segments: Tensor
    starts: Tensor
    stops: Tensor
    ends: Tensor
    single: bool


def make_batches(lengths: IntArray, batch_tokens: int, longest_packed: int) -> list[Batch]:
    """Which texts are computed together, and which of them share a row.

    Args:
        lengths: Positions that each text takes; shape [texts].
        batch_tokens: Positions of a batch; one text alone may take more.
        longest_packed: A batch with a longer text has one text in each row.
    """
    batches: list[Batch] = []
    order = np.argsort(-lengths, kind="stable").tolist()
    sizes: list[int] = lengths.tolist()
    start = 0
    while start < len(order):
        longest = sizes[order[start]]
        packed = longest <= longest_packed
        stop, taken = start, 0
        while stop < len(order):
            taken += sizes[order[stop]] if packed else longest
            if taken > batch_tokens and stop > start:
                break
            stop += 1
        texts = order[start:stop]
        if packed and longest * len(texts) > PADDING * sum(sizes[number] for number in texts):
            batches.append(_best_fit(texts, sizes, max(longest, ROW)))
        else:
            batches.append([[number] for number in texts])
        start = stop
    return batches


def lay_out(batch: Batch, tokens: Sequence[Sequence[int]], appended: Sequence[int]) -> PackedRows:
    """The tensors of a batch.

    Args:
        batch: From :func:`make_batches`.
        tokens: Ids of every text, at least one.
        appended: Ids that follow each text.
    """
    used = [sum(len(tokens[number]) + len(appended) for number in row) for row in batch]
    length = max(used)
    # Padding is a token of a text: no text sees it, but an untrained one's NaN would spread all the same, as 0 * NaN.
    ids = np.full((len(batch), length), tokens[batch[0][0]][0], dtype=np.int64)
    positions, segments = np.zeros_like(ids), np.zeros_like(ids)
    spans = []
    for place, row in enumerate(batch):
        at = 0
        for segment, number in enumerate(row):
            own = len(tokens[number])
            stop = at + own + len(appended)
            ids[place, at : at + own] = tokens[number]
            ids[place, at + own : stop] = appended
            positions[place, at:stop] = np.arange(stop - at)
            segments[place, at:stop] = segment
            first = place * length + at
            spans.append((first, first + own, place * length + stop - 1))
            at = stop
        segments[place, at:] = len(row)  # padding, whose positions stay 0: a row may be longer than the context
    starts, stops, ends = torch.tensor(spans, dtype=torch.int64).T.contiguous()
    return PackedRows(
        numbers=np.array([number for row in batch for number in row], dtype=np.int64),
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        starts=starts,
        stops=stops,
        ends=ends,
        single=all(len(row) == 1 for row in batch),
    )


def _best_fit(texts: Sequence[int], sizes: Sequence[int], length: int) -> Batch:
    """Each text, longest first, into the fullest row that takes it."""
    rows: Batch = []
    room: list[tuple[int, int]] = []  # free positions and row, sorted
    for number in texts:
        place = bisect_left(room, (sizes[number], -1))
        if place == len(room):
            free, row = length, len(rows)
            rows.append([])
        else:
            free, row = room.pop(place)
        rows[row].append(number)
        insort(room, (free - sizes[number], row))
    return rows
