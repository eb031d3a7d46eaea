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
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
TokenArray = npt.NDArray[np.int32]
BoolArray = npt.NDArray[np.bool_]

IGNORE = -100
"""Label of a position that carries no next-token loss."""


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
class ViewPairs:
    """Tokens of the two views of some examples.

    Attributes:
        tokens: Of all views, in any order; shape [tokens].
        starts: Where each view begins in ``tokens``; shape [examples, 2].
        lengths: Tokens of each view, at least one; shape [examples, 2].
        complete: False where a view was truncated; shape [examples, 2].
    """

    tokens: TokenArray
    starts: IntArray
    lengths: IntArray
    complete: BoolArray

    def __getitem__(self, chosen: slice) -> "ViewPairs":
        """Those of some of the examples."""
        return ViewPairs(self.tokens, self.starts[chosen], self.lengths[chosen], self.complete[chosen])

    @classmethod
    def of(cls, pairs: Sequence[tuple[View, View]]) -> "ViewPairs":
        """The views as arrays."""
        views = [view for pair in pairs for view in pair]
        lengths = np.array([len(view.tokens) for view in views], dtype=np.int64)
        return cls(
            tokens=np.array([token for view in views for token in view.tokens], dtype=np.int32),
            starts=(np.cumsum(lengths) - lengths).reshape(-1, 2),
            lengths=lengths.reshape(-1, 2),
            complete=np.array([view.complete for view in views], dtype=np.bool_).reshape(-1, 2),
        )


@dataclass(frozen=True)
class Trees:
    """Laid-out examples one behind the other, without padding: N positions, L labels, P examples with branches.

    Attributes:
        ids: Token ids, shape [N].
        positions: Position ids: 0 at every root; a child goes on after its parent. Shape [N].
        segments: Number within the row of the branch that the token is in, shape [N].
        parents: Number of the branch that this branch hangs on; its own number for a root. Shape [N].
        label_index: Positions that carry a label, rising; shape [L].
        labels: Next tokens there, shape [L].
        sources: Half-open ranges of the predicting views, encoded alone (without bos), shape [P, 2].
        predictions: Those of the [PRED] tokens; the sources where there are none. Shape [P, 2].
        targets: Those of the predicted views, encoded alone (without bos), shape [P, 2].
        rows: Row of each example, shape [examples].
        branched: Whether each has its branches, shape [examples].
        num_tokens: Positions of each, shape [examples].
        num_segments: Branches of each, the roots included; shape [examples].
    """

    ids: TokenArray
    positions: IntArray
    segments: IntArray
    parents: IntArray
    label_index: IntArray
    labels: TokenArray
    sources: IntArray
    predictions: IntArray
    targets: IntArray
    rows: IntArray
    branched: BoolArray
    num_tokens: IntArray
    num_segments: IntArray


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

    def lay_out(self, pairs: ViewPairs, branched: BoolArray, rows: IntArray) -> Trees:
        """Examples as trees.

        Args:
            pairs: Their views.
            branched: Whether each gets the branches of the objective; shape [examples].
            rows: The row that each is in, not decreasing; shape [examples].
        """
        template = self._template
        # One line an example, one column a branch; a branch that an example does not have takes no positions.
        present = template.always | branched[:, None]
        view_lengths = pairs.lengths[:, template.views] * (present & template.has_view)
        sizes = template.heads * present + view_lengths
        stops = np.cumsum(sizes).reshape(sizes.shape)
        starts = stops - sizes
        view_starts = stops - view_lengths
        num_segments = present.sum(axis=1)
        before = np.cumsum(num_segments) - num_segments
        before -= before[np.searchsorted(rows, rows)]  # in the same row
        numbers = np.cumsum(present, axis=1) + (before[:, None] - 1)
        counts = sizes.ravel()
        places = np.arange(counts.sum())

        def spread(values: IntArray) -> IntArray:
            """The value of its branch for every position."""
            return np.repeat(values.ravel(), counts)

        # Every position behind a head takes its token from its view; those of the heads are written over.
        sources = spread(pairs.starts[:, template.views] - view_starts)
        sources += places
        ids = pairs.tokens.take(sources, mode="clip")
        for number, head in enumerate(template.head_tokens):
            if head:
                first = starts[present[:, number], number]
                ids[first[:, None] + np.arange(len(head))] = head

        # A label stands one position before its token, and the end token's at the last of the view. The first token of
        # a sequence is no label.
        skipped = int(self.layout == "independent" and self.bos is None)
        complete = pairs.complete[:, template.views[template.labelled]]
        num_labels = view_lengths[:, template.labelled] + complete - skipped
        ends = np.cumsum(num_labels).reshape(num_labels.shape)
        firsts = view_starts[:, template.labelled] + (skipped - 1)
        runs = num_labels.ravel()
        label_index = np.repeat((firsts - ends + num_labels).ravel(), runs)
        label_index += places[: len(label_index)]
        labels = ids[1:].take(label_index, mode="clip")
        labels[ends[complete] - 1] = self.eos

        places -= spread(starts - sizes[:, template.parents] * template.is_child)
        spans = np.stack([np.where(template.has_view, view_starts, starts)[branched], stops[branched]], axis=-1)
        return Trees(
            ids=ids,
            positions=places,
            segments=spread(numbers),
            parents=spread(numbers[:, template.parents]),
            label_index=label_index,
            labels=labels,
            sources=spans[:, template.source],
            predictions=spans[:, template.prediction],
            targets=spans[:, template.target],
            rows=rows,
            branched=branched,
            num_tokens=sizes.sum(axis=1),
            num_segments=num_segments,
        )

    @cached_property
    def _template(self) -> "_Template":
        heads: list[tuple[int, ...]] = []
        views: list[int | None] = []
        parents: list[int] = []
        always: list[int] = []

        def add(head: tuple[int, ...], view: int | None, parent: int | None = None, *, plain: bool = False) -> int:
            """Appends a branch; returns its number."""
            number = len(heads)
            heads.append(head)
            views.append(view)
            parents.append(number if parent is None else parent)
            if plain:
                always.append(number)
            return number

        def predict(root: int) -> int:
            return add(self.predictors, None, root) if self.predictors else root

        bos = () if self.bos is None else (self.bos,)
        independent, forward = self.layout == "independent", self.direction == "forward"
        if independent:
            first = add(bos, 0, plain=True)
        else:
            first = add(bos + self.lead, 0, plain=True)
            answer = add(self.join, 1, first, plain=True)
            if self.lead:
                first = add(bos, 0)
        if forward:
            prediction = predict(first)
        second = add(bos, 1, plain=independent)
        if not forward:
            prediction = predict(second)
        numbers = np.arange(len(heads))
        return _Template(
            head_tokens=heads,
            heads=np.array([len(head) for head in heads]),
            views=np.array([view or 0 for view in views]),
            has_view=np.array([view is not None for view in views]),
            parents=np.array(parents),
            is_child=np.array(parents) != numbers,
            always=np.isin(numbers, always),
            labelled=[first, second] if independent else [answer],
            source=first if forward else second,
            prediction=prediction,
            target=second if forward else first,
        )


@dataclass(frozen=True)
class _Template:
    """The B branches of every example, in the order of the row.

    Attributes:
        head_tokens: The first tokens of each.
        heads: Their number, shape [B].
        views: The view that follows them, shape [B].
        has_view: Whether one does, shape [B].
        parents: Number of the branch that each hangs on; its own for a root. Shape [B].
        is_child: Whether it is none, shape [B].
        always: Whether examples without the objective have it, too; shape [B].
        labelled: Numbers of the branches whose views are labels.
        source: Number of the branch that the predicting view is encoded in, alone.
        prediction: That of the [PRED] tokens; the source's where there are none.
        target: That of the predicted view, alone.
    """

    head_tokens: Sequence[tuple[int, ...]]
    heads: IntArray
    views: IntArray
    has_view: BoolArray
    parents: IntArray
    is_child: BoolArray
    always: BoolArray
    labelled: Sequence[int]
    source: int
    prediction: int
    target: int
