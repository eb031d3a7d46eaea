"""From rows of examples to the tensors of one forward pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.branches import Branches, IntArray, TokenArray, Trees
from pretrain.data.corpus import CorpusSplit, concatenate
from pretrain.data.schedule import MicroBatch


@dataclass(frozen=True)
class Batch:
    """Tensors of one forward pass; N labels and P pairs lie in [rows, length] positions, numbered row by row.

    Attributes:
        ids: Token ids, shape [rows, length].
        positions: Position ids, shape [rows, length].
        segments: Branch numbers within the row, shape [rows, length].
        parents: Parent branch numbers, shape [rows, length].
        label_index: Flat positions that carry a label, shape [N].
        labels: Next tokens there, shape [N].
        source_spans: Flat half-open ranges of the source views, shape [P, 2].
        prediction_spans: The same of their predictions, shape [P, 2].
        target_spans: The same of their targets, shape [P, 2].
        groups: Group of each pair, shape [P].
        label_capacity: Most labels on any rank.
        pair_capacity: Most pairs on any rank.
        num_tokens: Positions that are not padding.
        num_visible: Pairs (token, token it sees), padding left out: what attention costs.
        lengths: Positions of each row that are not padding, shape [rows].
    """

    ids: Tensor
    positions: Tensor
    segments: Tensor
    parents: Tensor
    label_index: Tensor
    labels: Tensor
    source_spans: Tensor
    prediction_spans: Tensor
    target_spans: Tensor
    groups: Tensor
    label_capacity: int
    pair_capacity: int
    num_tokens: int
    num_visible: int
    lengths: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; from page-locked memory the copy runs while the host goes on."""
        return self._with(lambda tensor: tensor.to(device, non_blocking=tensor.is_pinned()))

    def pinned(self) -> "Batch":
        """The batch in page-locked memory."""
        return self._with(Tensor.pin_memory)

    def _with(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        changed: dict[str, Any] = {
            field.name: change(value)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **changed)


class BatchBuilder:
    """Lays out rows of one split."""

    def __init__(self, split: CorpusSplit, branches: Branches, row_length: int, pad: int) -> None:
        self.split = split
        self.branches = branches
        self.row_length = row_length
        self.pad = pad

    def build(self, micro_batch: MicroBatch) -> Batch:
        """The tensors of one micro-batch, on the CPU."""
        return self.build_all([micro_batch])[0]

    def build_all(self, micro_batches: Sequence[MicroBatch]) -> list[Batch]:
        """The tensors of each micro-batch, on the CPU; every block of the corpus is looked up once for all of them."""
        rows = [row for micro_batch in micro_batches for row in micro_batch.rows if row]
        examples = np.concatenate([np.zeros(0, np.int64), *(row.examples for row in rows)])
        branched = np.concatenate([np.zeros(0, np.bool_), *(row.branched for row in rows)])
        pairs = self.split.read(examples, concatenate([row.pairs for row in rows]))
        batches, start = [], 0
        for micro_batch in micro_batches:
            counts = [len(row.examples) if row else 0 for row in micro_batch.rows]
            own = slice(start, start + sum(counts))
            trees = self.branches.lay_out(pairs[own], branched[own], np.repeat(np.arange(len(counts)), counts))
            groups = np.array([row.group if row else 0 for row in micro_batch.rows])
            limits = micro_batch.label_capacity, micro_batch.pair_capacity
            batches.append(collate(trees, groups, self.row_length, self.pad, *limits))
            start = own.stop
        return batches


def collate(
    trees: Trees,
    groups: IntArray,
    row_length: int,
    pad: int,
    label_capacity: int | None = None,
    pair_capacity: int | None = None,
) -> Batch:
    """Pads rows of trees to ``row_length``.

    Args:
        trees: The examples of all rows, with at most ``row_length`` positions in a row.
        groups: Group of the pairs of each row, also of rows without examples; shape [rows].
        row_length: Positions of a row.
        pad: Token id of padding.
        label_capacity: Most labels on any rank; None: those of this batch.
        pair_capacity: Most pairs on any rank; None: those of this batch.
    """
    num_rows = len(groups)
    lengths, num_segments = np.zeros((2, num_rows), np.int64)
    np.add.at(lengths, trees.rows, trees.num_tokens)
    np.add.at(num_segments, trees.rows, trees.num_segments)
    used = np.arange(row_length) < lengths[:, None]

    def padded(values: IntArray | TokenArray, padding: IntArray) -> Tensor:
        filled = np.repeat(padding, row_length).reshape(num_rows, row_length)
        filled[used] = values
        return torch.from_numpy(filled)

    stops = np.cumsum(lengths)
    moved = np.arange(num_rows) * row_length - (stops - lengths)  # by padding, of the positions of each row
    num_labels = np.searchsorted(trees.label_index, stops) - np.searchsorted(trees.label_index, stops - lengths)
    pair_rows = trees.rows[trees.branched]
    return Batch(
        ids=padded(trees.ids, np.full(num_rows, pad)),
        positions=padded(trees.positions, np.zeros(num_rows, np.int64)),
        segments=padded(trees.segments, num_segments),
        parents=padded(trees.parents, num_segments),
        label_index=torch.from_numpy(trees.label_index + np.repeat(moved, num_labels)),
        labels=torch.from_numpy(trees.labels.astype(np.int64)),
        source_spans=torch.from_numpy(trees.sources + moved[pair_rows, None]),
        prediction_spans=torch.from_numpy(trees.predictions + moved[pair_rows, None]),
        target_spans=torch.from_numpy(trees.targets + moved[pair_rows, None]),
        groups=torch.from_numpy(groups[pair_rows]),
        label_capacity=len(trees.labels) if label_capacity is None else label_capacity,
        pair_capacity=len(pair_rows) if pair_capacity is None else pair_capacity,
        num_tokens=int(stops[-1]),
        # A token sees as many as stand before it in its branches, and itself.
        num_visible=int(trees.positions.sum() + stops[-1]),
        lengths=torch.from_numpy(lengths),
    )
