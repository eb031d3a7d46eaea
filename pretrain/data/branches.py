"""One pair of views as a small tree of branches (docs/branches.md).

    conditional                                            independent

    bos first ──┬── second     LM loss on second, eos      bos first ──┬── (LM loss on first, eos)
                └── [PRED]×k   prediction                              └── [PRED]×k   prediction
    bos second                 target, encoded alone       bos second      LM loss on second, eos; target

A token sees token j iff j is not after it and j's segment is its own segment or that segment's parent. The end token
is only ever a label: nothing follows it and nothing reads its state, so laying it out would cost a position for
nothing. Drawn for direction "forward"; in "reverse" the [PRED] tokens hang on the second root and the first view is
the target.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

IGNORE = -100
"""Label of a position that carries no next-token loss."""


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


@dataclass(frozen=True)
class View:
    """Tokens of one view.

    Attributes:
        tokens: At least one token id, without bos and eos.
        complete: False if it was truncated; then its end is no end and eos is not its label.
    """

    tokens: Sequence[int]
    complete: bool = True


@dataclass(frozen=True)
class Branches:
    """How pairs are laid out.

    Attributes:
        layout: LM loss on the second view given the first ("conditional") or on each alone ("independent").
        eos: Label of a complete view's end.
        bos: First token of every root; None: no such token.
        predictors: Ids of the k appended [PRED] tokens.
        direction: Which view predicts which.
        lead: Unlabelled tokens between bos and the first view (a chat template's); conditional layout only. The
            embedding of the first view is then read from a root of its own: it is that of the text alone.
        join: Unlabelled tokens between the two views (a separator); conditional layout only.
    """

    layout: Literal["conditional", "independent"]
    eos: int
    bos: int | None = None
    predictors: tuple[int, ...] = ()
    direction: Literal["forward", "reverse"] = "forward"
    lead: tuple[int, ...] = ()
    join: tuple[int, ...] = ()

    def num_tokens(self, lengths: IntArray, branched: bool | BoolArray) -> IntArray:
        """Positions that examples take.

        Args:
            lengths: Token counts of the two views, shape [..., 2].
            branched: Whether the branches of the objective are laid out; a bool, or shape [...].

        Returns:
            Shape [...].
        """
        first, second = lengths[..., 0], lengths[..., 1]
        root = int(self.bos is not None)
        if self.layout == "independent":
            return first + second + 2 * root + branched * len(self.predictors)
        plain = first + second + root + len(self.lead) + len(self.join)
        alone = first + root if self.lead else 0
        return plain + branched * (alone + second + root + len(self.predictors))

    def num_labels(self, lengths: IntArray, complete: BoolArray) -> IntArray:
        """Label tokens of examples, shape [...], from lengths and completeness of the views, shape [..., 2]."""
        if self.layout == "conditional":
            return lengths[..., 1] + complete[..., 1]
        ends = complete.sum(axis=-1)
        total: IntArray = lengths.sum(axis=-1) + ends - (0 if self.bos is not None else 2)
        return total

    def longest_view(self, row_length: int) -> int:
        """The longest view such that a pair of two such views, with branches, fits a row."""
        low, high = 0, row_length
        while low < high:
            middle = (low + high + 1) // 2
            fits = int(self.num_tokens(np.array([middle, middle]), branched=True)) <= row_length
            low, high = (middle, high) if fits else (low, middle - 1)
        return low

    def lay_out(self, first: View, second: View, branched: bool) -> tuple[Tree, PairSpans | None]:
        """One example as a tree, and where to read its embeddings (None without branches)."""
        tree = Tree()
        forward = self.direction == "forward"
        if self.layout == "independent":
            first_root, first_span = self._root(tree, first, labelled=True)
            if forward and branched:
                prediction = self._predict(tree, first_root, first_span)
            second_root, second_span = self._root(tree, second, labelled=True)
        else:
            first_root, first_span = self._root(tree, first, labelled=False, lead=self.lead)
            # The token before the answer, the last of the prompt, is labelled with its first token.
            joined = [*[IGNORE] * len(self.join), second.tokens[0]]
            tree.labels[-1] = joined[0]
            answer = [*joined[1:], *self._next(second)]
            tree.add([*self.join, *second.tokens], answer, first_root, tree.positions[-1] + 1)
            if branched and self.lead:
                first_root, first_span = self._root(tree, first, labelled=False)
            if forward and branched:
                prediction = self._predict(tree, first_root, first_span)
            if branched:
                second_root, second_span = self._root(tree, second, labelled=False)
        if not branched:
            return tree, None
        if not forward:
            prediction = self._predict(tree, second_root, second_span)
            return tree, PairSpans(second_span, prediction, first_span)
        return tree, PairSpans(first_span, prediction, second_span)

    def _root(self, tree: Tree, view: View, labelled: bool, lead: Sequence[int] = ()) -> tuple[int, Span]:
        bos = [*([] if self.bos is None else [self.bos]), *lead]
        labels = [*view.tokens[: len(bos)], *self._next(view)] if labelled else [IGNORE] * (len(bos) + len(view.tokens))
        segment, span = tree.add([*bos, *view.tokens], labels, None, 0)
        return segment, Span(span.start + len(bos), span.stop)

    def _next(self, view: View) -> list[int]:
        return [*view.tokens[1:], self.eos if view.complete else IGNORE]

    def _predict(self, tree: Tree, root: int, span: Span) -> Span:
        if not self.predictors:
            return span
        position = tree.positions[span.stop - 1] + 1
        return tree.add(self.predictors, [IGNORE] * len(self.predictors), root, position)[1]
