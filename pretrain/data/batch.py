"""From rows of examples to the tensors of one forward pass."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.branches import IGNORE, Branches, PairSpans, Span, Tree
from pretrain.data.corpus import Split
from pretrain.data.schedule import MicroBatch, Row


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
        """The batch on a device."""
        tensors: dict[str, Any] = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **tensors)


class BatchBuilder:
    """Lays out rows of one split."""

    def __init__(self, split: Split, branches: Branches, row_length: int, pad: int) -> None:
        self.split = split
        self.branches = branches
        self.row_length = row_length
        self.pad = pad

    def build(self, micro_batch: MicroBatch) -> Batch:
        """The tensors of one micro-batch, on the CPU."""
        laid_out = [self._row(row) for row in micro_batch.rows]
        groups = [row.group for row, (_, spans) in zip(micro_batch.rows, laid_out, strict=True) if row for _ in spans]
        return collate(
            laid_out, groups, self.row_length, self.pad, micro_batch.label_capacity, micro_batch.pair_capacity
        )

    def _row(self, row: Row | None) -> tuple[Tree, list[PairSpans]]:
        tree, pairs = Tree(), []
        if row is not None:
            for example, wordings, branched in zip(row.examples, row.wordings, row.branched, strict=True):
                first, second = self.split.views(example, wordings)
                example_tree, spans = self.branches.lay_out(first, second, branched)
                offset = tree.extend(example_tree)
                if spans is not None:
                    pairs.append(spans.shifted(offset))
        return tree, pairs


def collate(
    rows: Sequence[tuple[Tree, list[PairSpans]]],
    groups: Sequence[int],
    row_length: int,
    pad: int,
    label_capacity: int | None = None,
    pair_capacity: int | None = None,
) -> Batch:
    """Pads rows of trees to ``row_length`` and stacks them.

    Args:
        rows: For each row its branches and its pairs, with positions within the row.
        groups: Group of each pair, in the order of the rows.
        row_length: Positions of a row.
        pad: Token id of padding.
        label_capacity: Most labels on any rank; None: those of this batch.
        pair_capacity: Most pairs on any rank; None: those of this batch.
    """
    shape = (len(rows), row_length)
    ids = np.full(shape, pad, dtype=np.int64)
    labels = np.full(shape, IGNORE, dtype=np.int64)
    positions, segments, parents = (np.zeros(shape, dtype=np.int64) for _ in range(3))
    source: list[Span] = []
    prediction: list[Span] = []
    target: list[Span] = []
    num_tokens = num_visible = 0
    for number, (tree, pairs) in enumerate(rows):
        used = len(tree.ids)
        num_tokens += used
        num_visible += sum(tree.positions) + used  # a token sees as many as stand before it in its branches, and itself
        ids[number, :used] = tree.ids
        labels[number, :used] = tree.labels
        positions[number, :used] = tree.positions
        segments[number, :used] = tree.segments
        segments[number, used:] = tree.num_segments
        parents[number, :used] = tree.parents
        parents[number, used:] = tree.num_segments
        for pair in pairs:
            flat = pair.shifted(number * row_length)
            source.append(flat.source)
            prediction.append(flat.prediction)
            target.append(flat.target)
    label_index = np.flatnonzero(labels.ravel() != IGNORE)
    return Batch(
        ids=torch.from_numpy(ids),
        positions=torch.from_numpy(positions),
        segments=torch.from_numpy(segments),
        parents=torch.from_numpy(parents),
        label_index=torch.from_numpy(label_index),
        labels=torch.from_numpy(labels.ravel()[label_index]),
        source_spans=_spans(source),
        prediction_spans=_spans(prediction),
        target_spans=_spans(target),
        groups=torch.tensor(list(groups), dtype=torch.int64),
        label_capacity=len(label_index) if label_capacity is None else label_capacity,
        pair_capacity=len(source) if pair_capacity is None else pair_capacity,
        num_tokens=num_tokens,
        num_visible=num_visible,
        lengths=torch.tensor([len(tree.ids) for tree, _ in rows], dtype=torch.int64),
    )


def _spans(spans: Sequence[Span]) -> Tensor:
    return torch.tensor([(span.start, span.stop) for span in spans], dtype=torch.int64).reshape(-1, 2)
