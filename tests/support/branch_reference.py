"""Rows of branches built one token after the other: the readable form of ``pretrain.data.branches`` and ``batch``.

Tests compare the arrays of the product with it, and ``benchmarks/rows.py`` its speed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pretrain.data.batch import Batch
from pretrain.data.branches import IGNORE, Branches, View
from pretrain.data.schedule import MicroBatch, PackedRow


@dataclass(frozen=True)
class Span:
    """Half-open range of positions."""

    start: int
    stop: int

    def shifted(self, offset: int) -> "Span":
        """The same span ``offset`` positions later."""
        return Span(self.start + offset, self.stop + offset)


@dataclass
class Tree:
    """A laid-out example, or a row of them: one entry per position in every array.

    Attributes:
        ids: Token ids.
        positions: Position ids: 0 at every root; a child goes on after its parent.
        segments: Number of the branch that the token is in.
        parents: Number of the branch that this branch hangs on; its own number for a root.
        labels: The next token, or ``IGNORE``.
    """

    ids: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    segments: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    num_segments: int = 0

    def add(self, ids: Sequence[int], labels: Sequence[int], parent: int | None, position: int) -> tuple[int, Span]:
        """Appends a branch; returns its number and its span."""
        segment, start = self.num_segments, len(self.ids)
        self.ids += ids
        self.labels += labels
        self.positions += range(position, position + len(ids))
        self.segments += [segment] * len(ids)
        self.parents += [segment if parent is None else parent] * len(ids)
        self.num_segments += 1
        return segment, Span(start, len(self.ids))

    def extend(self, other: "Tree") -> int:
        """Appends another example's branches; returns the offset of its positions in this row."""
        offset = len(self.ids)
        self.ids += other.ids
        self.labels += other.labels
        self.positions += other.positions
        self.segments += [segment + self.num_segments for segment in other.segments]
        self.parents += [parent + self.num_segments for parent in other.parents]
        self.num_segments += other.num_segments
        return offset


@dataclass(frozen=True)
class PairSpans:
    """Where the embeddings of a pair are read.

    Attributes:
        source: Tokens of the predicting view, encoded alone (without bos).
        prediction: The [PRED] tokens; the source's own tokens when there are none.
        target: Tokens of the predicted view, encoded alone (without bos).
    """

    source: Span
    prediction: Span
    target: Span

    def shifted(self, offset: int) -> "PairSpans":
        """The same spans ``offset`` positions later."""
        return PairSpans(self.source.shifted(offset), self.prediction.shifted(offset), self.target.shifted(offset))


def lay_out(branches: Branches, first: View, second: View, branched: bool) -> tuple[Tree, PairSpans | None]:
    """One example as a tree, and where to read its embeddings (None without branches)."""
    tree = Tree()
    forward = branches.direction == "forward"
    if branches.layout == "independent":
        first_root, first_span = _root(branches, tree, first, labelled=True)
        if forward and branched:
            prediction = _predict(branches, tree, first_root, first_span)
        second_root, second_span = _root(branches, tree, second, labelled=True)
    else:
        first_root, first_span = _root(branches, tree, first, labelled=False, lead=branches.lead)
        # The token before the answer, the last of the prompt, is labelled with its first token.
        joined = [*[IGNORE] * len(branches.join), second.tokens[0]]
        tree.labels[-1] = joined[0]
        answer = [*joined[1:], *_next(branches, second)]
        tree.add([*branches.join, *second.tokens], answer, first_root, tree.positions[-1] + 1)
        if branched and branches.lead:
            first_root, first_span = _root(branches, tree, first, labelled=False)
        if forward and branched:
            prediction = _predict(branches, tree, first_root, first_span)
        if branched:
            second_root, second_span = _root(branches, tree, second, labelled=False)
    if not branched:
        return tree, None
    if not forward:
        prediction = _predict(branches, tree, second_root, second_span)
        return tree, PairSpans(second_span, prediction, first_span)
    return tree, PairSpans(first_span, prediction, second_span)


def _root(branches: Branches, tree: Tree, view: View, labelled: bool, lead: Sequence[int] = ()) -> tuple[int, Span]:
    bos = [*([] if branches.bos is None else [branches.bos]), *lead]
    labels = (
        [*view.tokens[: len(bos)], *_next(branches, view)] if labelled else [IGNORE] * (len(bos) + len(view.tokens))
    )
    segment, span = tree.add([*bos, *view.tokens], labels, None, 0)
    return segment, Span(span.start + len(bos), span.stop)


def _next(branches: Branches, view: View) -> list[int]:
    return [*view.tokens[1:], branches.eos if view.complete else IGNORE]


def _predict(branches: Branches, tree: Tree, root: int, span: Span) -> Span:
    if not branches.predictors:
        return span
    position = tree.positions[span.stop - 1] + 1
    return tree.add(branches.predictors, [IGNORE] * len(branches.predictors), root, position)[1]


def build(split: Any, branches: Branches, row_length: int, pad: int, micro_batch: MicroBatch) -> Batch:
    """What ``BatchBuilder.build`` gives."""
    laid_out = [_row(split, branches, row) for row in micro_batch.rows]
    groups = [row.group for row, (_, spans) in zip(micro_batch.rows, laid_out, strict=True) if row for _ in spans]
    return collate(laid_out, groups, row_length, pad, micro_batch.label_capacity, micro_batch.pair_capacity)


def _row(split: Any, branches: Branches, row: PackedRow | None) -> tuple[Tree, list[PairSpans]]:
    tree, pairs = Tree(), []
    if row is not None:
        wordings = row.pairs.wordings.tolist()
        for example, (first, second), branched in zip(row.examples.tolist(), wordings, row.branched, strict=True):
            example_tree, spans = lay_out(branches, *split.views(example, (first, second)), bool(branched))
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
