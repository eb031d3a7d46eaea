"""The layout of one pair: every token sees what it would see in a sequence of its own, and all counts are right."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.sections import ObjectiveConfig, PackingConfig
from pretrain.data.branches import IGNORE, Branches, View
from pretrain.objectives.mixed import make_branches
from tests.support.branch_reference import PairSpans, Span, Tree
from tests.support.trees import lay_out, lay_out_row

EOS = 99
Context = tuple[tuple[int, ...], int]
"""What a token sees, itself last, and its label."""

tokens = st.lists(st.integers(3, 30), min_size=1, max_size=6)
views = st.builds(View, tokens, st.booleans())
layouts = st.builds(
    Branches,
    layout=st.sampled_from(["conditional", "independent"]),
    eos=st.just(EOS),
    bos=st.sampled_from([None, 1]),
    predictors=st.integers(0, 3).map(lambda k: (50, 51, 52)[:k]),
    direction=st.sampled_from(["forward", "reverse"]),
)
framed = st.builds(
    Branches,
    layout=st.just("conditional"),
    eos=st.just(EOS),
    bos=st.sampled_from([None, 1]),
    predictors=st.integers(0, 3).map(lambda k: (50, 51, 52)[:k]),
    direction=st.sampled_from(["forward", "reverse"]),
    lead=st.sampled_from([(), (60,), (60, 61, 62)]),
    join=st.sampled_from([(), (70,), (70, 71)]),
)


def contexts(tree: Tree) -> list[Context]:
    """By the rule itself, and with position ids that count what is seen."""
    found = []
    for i, (segment, parent) in enumerate(zip(tree.segments, tree.parents, strict=True)):
        seen = [j for j in range(i + 1) if tree.segments[j] in (segment, parent)]
        assert [tree.positions[j] for j in seen] == list(range(len(seen)))
        found.append((tuple(tree.ids[j] for j in seen), tree.labels[i]))
    return found


def prefixes(sequence: list[int], start: int, labels: list[int]) -> list[Context]:
    """The tokens from ``start`` on, each with the sequence up to it."""
    places = range(start, len(sequence))
    return [(tuple(sequence[: place + 1]), label) for place, label in zip(places, labels, strict=True)]


def separate_sequences(branches: Branches, first: View, second: View, branched: bool) -> list[Context]:
    """The same tokens out of sequences that are encoded one by one, as the published code does."""
    bos = [] if branches.bos is None else [branches.bos]
    one, two = [*bos, *first.tokens], [*bos, *second.tokens]
    end_one, end_two = (EOS if view.complete else IGNORE for view in (first, second))
    ignore_one, ignore_two = [IGNORE] * len(one), [IGNORE] * len(two)
    if branches.layout == "independent":
        found = prefixes(one, 0, [*one[1:], end_one]) + prefixes(two, 0, [*two[1:], end_two])
    else:
        found = prefixes(one, 0, [*ignore_one[1:], second.tokens[0]])
        found += prefixes([*one, *second.tokens], len(one), [*second.tokens[1:], end_two])
        if branched:
            found += prefixes(two, 0, ignore_two)
    if branched:
        source = one if branches.direction == "forward" else two
        found += prefixes([*source, *branches.predictors], len(source), [IGNORE] * len(branches.predictors))
    return found


@settings(max_examples=300, deadline=None)
@given(layouts, views, views, st.booleans())
def test_every_token_has_the_context_and_label_of_separate_sequences(
    branches: Branches, first: View, second: View, branched: bool
) -> None:
    tree, spans = lay_out(branches, first, second, branched)
    assert Counter(contexts(tree)) == Counter(separate_sequences(branches, first, second, branched))
    assert (spans is not None) == branched


@settings(max_examples=300, deadline=None)
@given(layouts, views, views, st.booleans())
def test_counts_are_those_of_what_is_laid_out(branches: Branches, first: View, second: View, branched: bool) -> None:
    tree, _ = lay_out(branches, first, second, branched)
    lengths = np.array([len(first.tokens), len(second.tokens)])
    assert branches.num_tokens(lengths, branched) == len(tree.ids)
    complete = np.array([first.complete, second.complete])
    assert branches.num_labels(lengths, complete) == sum(label != IGNORE for label in tree.labels)
    assert len(tree.ids) == len(tree.positions) == len(tree.segments) == len(tree.parents) == len(tree.labels)
    assert tree.num_segments == len(set(tree.segments))


@settings(max_examples=200, deadline=None)
@given(layouts, views, views)
def test_spans_point_at_the_view_alone_its_prediction_and_the_other_view(
    branches: Branches, first: View, second: View
) -> None:
    tree, spans = lay_out(branches, first, second, branched=True)
    assert spans is not None
    seen = contexts(tree)
    bos = () if branches.bos is None else (branches.bos,)
    source, target = (first, second) if branches.direction == "forward" else (second, first)

    def read(span: Span) -> tuple[int, ...]:
        return tuple(tree.ids[span.start : span.stop])

    assert read(spans.source) == tuple(source.tokens)
    assert seen[spans.source.stop - 1][0] == (*bos, *source.tokens)
    assert read(spans.target) == tuple(target.tokens)
    assert seen[spans.target.stop - 1][0] == (*bos, *target.tokens)
    assert read(spans.prediction) == (branches.predictors or tuple(source.tokens))
    assert seen[spans.prediction.stop - 1][0] == (*bos, *source.tokens, *branches.predictors)


@settings(max_examples=100, deadline=None)
@given(layouts, st.lists(st.tuples(views, views, st.booleans()), min_size=1, max_size=4))
def test_examples_in_a_row_keep_the_contexts_they_have_alone(
    branches: Branches, examples: list[tuple[View, View, bool]]
) -> None:
    row, pairs = lay_out_row(branches, examples)
    targets = [row.ids[spans.target.start : spans.target.stop] for spans in pairs]
    alone = []
    for first, second, branched in examples:
        tree, spans = lay_out(branches, first, second, branched)
        if spans is not None:
            assert targets.pop(0) == tree.ids[spans.target.start : spans.target.stop]
        alone += contexts(tree)
    assert contexts(row) == alone and not targets


@pytest.mark.parametrize(
    ("layout", "branched", "positions"),
    # T = 5 tokens, C = 3, k = 2, bos: what docs/branches.md says a pair costs (the end token is never laid out)
    [
        ("conditional", True, 5 + 2 * 3 + 2 + 2),
        ("conditional", False, 5 + 3 + 1),
        ("independent", True, 5 + 3 + 2 + 2),
        ("independent", False, 5 + 3 + 2),
    ],
)
def test_cost_of_a_pair_is_what_the_documentation_says(layout: str, branched: bool, positions: int) -> None:
    branches = Branches(layout, eos=EOS, bos=1, predictors=(50, 51))  # type: ignore[arg-type]
    assert branches.num_tokens(np.array([5, 3]), branched) == positions


def test_counts_of_many_examples_at_once_are_those_of_each() -> None:
    branches = Branches("conditional", eos=EOS, bos=1, predictors=(50,))
    lengths = np.array([[1, 2], [3, 4], [6, 5]])
    complete = np.array([[True, False], [False, True], [True, True]])
    assert branches.num_tokens(lengths, branched=True).tolist() == [1 + 4 + 3, 3 + 8 + 3, 6 + 10 + 3]
    assert branches.num_labels(lengths, complete).tolist() == [2, 5, 6]


def test_end_of_a_truncated_view_is_no_label() -> None:
    branches = Branches("independent", eos=EOS, bos=1)
    tree, _ = lay_out(branches, View([5, 6], complete=False), View([7], complete=True), branched=False)
    assert tree.ids == [1, 5, 6, 1, 7]
    assert tree.labels == [5, 6, IGNORE, 7, EOS]


def test_tree_of_a_prompt_in_full() -> None:
    """A separator lies before the answer; a template's head moves the predicting view to a root of its own."""
    plain = Branches("conditional", eos=EOS, bos=1, predictors=(50,), join=(70, 71))
    tree, spans = lay_out(plain, View([5, 6]), View([7]), branched=True)
    assert tree.ids == [1, 5, 6, 70, 71, 7, 50, 1, 7]
    assert tree.labels == [*[IGNORE] * 4, 7, EOS, IGNORE, IGNORE, IGNORE]
    assert (tree.positions, tree.segments) == ([0, 1, 2, 3, 4, 5, 3, 0, 1], [0, 0, 0, 1, 1, 1, 2, 3, 3])
    assert spans == PairSpans(Span(1, 3), Span(6, 7), Span(8, 9))
    chat = Branches("conditional", eos=EOS, bos=1, predictors=(50,), lead=(60,), join=(70,))
    tree, spans = lay_out(chat, View([5, 6]), View([7]), branched=True)
    assert tree.ids == [1, 60, 5, 6, 70, 7, 1, 5, 6, 50, 1, 7]
    assert tree.labels == [*[IGNORE] * 4, 7, EOS, *[IGNORE] * 6]
    assert tree.segments == [0, 0, 0, 0, 1, 1, 2, 2, 2, 3, 4, 4]
    assert spans == PairSpans(Span(7, 9), Span(9, 10), Span(11, 12))


def test_tree_of_a_conditional_pair_in_full() -> None:
    branches = Branches("conditional", eos=EOS, bos=1, predictors=(50, 51))
    tree, spans = lay_out(branches, View([5, 6]), View([7]), branched=True)
    assert tree == Tree(
        ids=[1, 5, 6, 7, 50, 51, 1, 7],
        positions=[0, 1, 2, 3, 3, 4, 0, 1],
        segments=[0, 0, 0, 1, 2, 2, 3, 3],
        parents=[0, 0, 0, 0, 0, 0, 3, 3],
        labels=[IGNORE, IGNORE, 7, EOS, IGNORE, IGNORE, IGNORE, IGNORE],
        num_segments=4,
    )
    assert spans == PairSpans(Span(1, 3), Span(4, 6), Span(7, 8))


@settings(max_examples=100, deadline=None)
@given(layouts | framed, st.integers(20, 200))
def test_longest_view_fits_a_row_and_one_more_token_does_not(branches: Branches, row_length: int) -> None:
    longest = branches.longest_view(row_length)
    assert branches.num_tokens(np.array([longest, longest]), branched=True) <= row_length
    assert branches.num_tokens(np.array([longest + 1, longest + 1]), branched=True) > row_length


def test_longest_view_is_zero_where_nothing_fits() -> None:
    assert Branches("conditional", eos=EOS, bos=1, predictors=(50,) * 8).longest_view(8) == 0


def test_config_decides_layout_direction_and_predictors() -> None:
    for layout, direction in product(["conditional", "independent"], ["forward", "reverse"]):
        made = make_branches(
            PackingConfig(layout=layout),  # type: ignore[arg-type]
            ObjectiveConfig(predictors=2, direction=direction),  # type: ignore[arg-type]
            eos=EOS,
            bos=1,
            predictors=(50, 51, 52),
        )
        assert made == Branches(layout, eos=EOS, bos=1, predictors=(50, 51), direction=direction)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "repeat", "chosen"), [(3, True, (50, 50, 50)), (0, True, ()), (0, False, ())])
def test_predictor_may_be_one_token_repeated_or_none(count: int, repeat: bool, chosen: tuple[int, ...]) -> None:
    objective = ObjectiveConfig(predictors=count, repeat_predictor=repeat)
    made = make_branches(PackingConfig(), objective, eos=EOS, bos=None, predictors=(50, 51, 52))
    assert made.predictors == chosen
