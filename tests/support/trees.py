"""What the product lays out, in the form of the reference: lists, one entry per position."""

import numpy as np

from pretrain.data.branches import IGNORE, Branches, IntArray, Trees, View, ViewPairs
from tests.support.branch_reference import PairSpans, Span, Tree


def lay_out(branches: Branches, first: View, second: View, branched: bool) -> tuple[Tree, PairSpans | None]:
    """One example as ``Branches.lay_out`` lays it out."""
    row, pairs = lay_out_row(branches, [(first, second, branched)])
    return row, pairs[0] if pairs else None


def lay_out_row(branches: Branches, examples: list[tuple[View, View, bool]]) -> tuple[Tree, list[PairSpans]]:
    """A row of examples."""
    trees = lay_out_examples(branches, examples, np.zeros(len(examples), np.int64))
    labels = np.full(len(trees.ids), IGNORE)
    labels[trees.label_index] = trees.labels
    row = Tree(
        trees.ids.tolist(),
        trees.positions.tolist(),
        trees.segments.tolist(),
        trees.parents.tolist(),
        labels.tolist(),
        int(trees.num_segments.sum()),
    )
    spans = zip(trees.sources.tolist(), trees.predictions.tolist(), trees.targets.tolist(), strict=True)
    return row, [PairSpans(*(Span(*span) for span in pair)) for pair in spans]


def lay_out_examples(branches: Branches, examples: list[tuple[View, View, bool]], rows: IntArray) -> Trees:
    """Examples in so many rows."""
    branched = np.array([branched for *_, branched in examples], dtype=np.bool_)
    return branches.lay_out(ViewPairs.of([(first, second) for first, second, _ in examples]), branched, rows)
