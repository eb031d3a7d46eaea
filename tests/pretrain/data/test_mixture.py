"""Mixtures: shares of tokens become records; what cannot be filled or is misspelt is refused with numbers."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pretrain.config.data import MixtureStage
from pretrain.data.corpus import SourceSpan
from pretrain.data.mixture import resolve
from pretrain.runtime.errors import DiptychError


def span(name: str, count: int, mean: int = 10) -> SourceSpan:
    """A source of so many records of two views of mean / 2 tokens."""
    return SourceSpan(name, 0, count, mean, f"{name}.jsonl", ())


CAPTIONS, QUORA, REGEX = span("captions", 1000, 20), span("quora", 500, 10), span("regex", 300, 30)
ALL = (CAPTIONS, QUORA, REGEX)


def stage(**settings_: Any) -> MixtureStage:
    return MixtureStage.model_validate(settings_)


def test_without_a_mixture_every_record_is_taken_once() -> None:
    mix = resolve((), ALL, repeat=False)
    assert mix.counts == ((1000, 500, 300),)
    assert mix.num_records == 1800
    assert mix.epochs() == [1, 1, 1]
    assert mix.epochs(2.5) == [2.5, 2.5, 2.5]


def test_weights_are_shares_of_tokens_not_of_records() -> None:
    mix = resolve([stage(tokens=8000, weights={"captions": 3, "quora": 1})], ALL, repeat=False)
    assert mix.counts == ((300, 200, 0),)


def test_budgets_are_tokens() -> None:
    mix = resolve([stage(budgets={"captions": 20_000, "regex": 95})], ALL, repeat=False)
    assert mix.counts == ((1000, 0, 3),)


def test_a_small_part_is_at_least_one_record_and_a_zero_part_none() -> None:
    mix = resolve([stage(tokens=10_000, weights={"captions": 1, "quora": 1e-9, "regex": 0})], ALL, repeat=False)
    assert mix.counts == ((500, 1, 0),)


def test_stages_add_up_and_a_part_of_a_pass_ends_within_a_stage() -> None:
    mix = resolve(
        [stage(tokens=4000, weights={"captions": 1}), stage(tokens=8000, weights={"captions": 1, "quora": 1})],
        ALL,
        repeat=False,
    )
    assert mix.counts == ((200, 0, 0), (200, 400, 0))
    assert mix.epochs() == [0.4, 0.8, 0]
    assert mix.epochs(0.25) == [0.2, 0, 0]
    assert mix.epochs(0.625) == pytest.approx([0.2 + 0.1, 0.4, 0])
    assert mix.epochs(3) == pytest.approx([1.2, 2.4, 0])


def test_the_table_tells_records_tokens_share_and_epochs() -> None:
    stages = [stage(tokens=8000, weights={"captions": 3, "quora": 1}), stage(budgets={"quora": 10_000})]
    lines = resolve(stages, ALL, repeat=True).table(2.0)
    assert lines[-2] == "the run of 2.00 passes takes 0.60 epochs of captions, 4.80 epochs of quora"
    assert lines[-1] == "left out: regex"
    assert [line.split() for line in lines[:-2]] == [
        ["mixture", "records", "tokens", "share", "epochs", "of", "the", "source"],
        ["stage", "0"],
        ["captions", "300", "6,000", "75.0%", "0.30"],
        ["quora", "200", "2,000", "25.0%", "0.40"],
        ["stage", "1"],
        ["quora", "1,000", "10,000", "100.0%", "2.00"],
    ]


def test_a_mixture_that_cannot_be_filled_is_refused_with_its_remedy() -> None:
    asked = [stage(tokens=20_000, weights={"captions": 1, "quora": 1})]
    with pytest.raises(DiptychError) as error:
        resolve(asked, ALL, repeat=False)
    assert str(error.value) == (
        "data.mixture.0: one pass takes 1,000 records of quora, 2.00 epochs of its 500; without repetition this mix "
        "fills at most 10,000 of 20,000 tokens: lower tokens to 50.0%, change the shares, or allow repetition with "
        "data.repeat=true"
    )
    assert resolve(asked, ALL, repeat=True).counts == ((500, 1000, 0),)
    assert resolve([stage(tokens=10_000, weights={"captions": 1, "quora": 1})], ALL, repeat=False).epochs()[1] == 1


def test_stages_that_take_too_much_together_are_refused() -> None:
    with pytest.raises(DiptychError, match=r"data\.mixture: one pass takes 600 records of quora, 1\.20 epochs"):
        resolve([stage(budgets={"quora": 3000})] * 2, ALL, repeat=False)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5000), st.integers(2, 400)), min_size=1, max_size=4),
    st.lists(st.lists(st.floats(0, 10), min_size=4, max_size=4), min_size=1, max_size=3),
    st.integers(1, 10**7),
)
def test_the_largest_fill_that_an_error_names_can_be_filled(
    sizes: list[tuple[int, int]], weights: list[list[float]], tokens: int
) -> None:
    sources = [span(f"s{number}", *size) for number, size in enumerate(sizes)]
    named = [{source.name: weight for source, weight in zip(sources, row, strict=False)} for row in weights]
    stages = [stage(tokens=tokens, weights=row) for row in named if any(row.values())]
    try:
        mix = resolve(stages, sources, repeat=False)
    except DiptychError as error:
        found = re.search(r"at most ([\d,]+) of ([\d,]+) tokens", str(error))
        assert found
        most, asked = (int(number.replace(",", "")) for number in found.groups())
        assert most < asked
        each = most // len(stages)
        if each and all(
            each * weight >= 2000 * sum(row.values()) for row in named for weight in row.values() if weight
        ):
            smaller = [stage(tokens=each, weights=one.weights) for one in stages]
            assert max(resolve(smaller, sources, repeat=False).epochs()) <= 1
    else:
        assert max(mix.epochs()) <= 1


def test_stages_that_take_a_record_each_of_too_few_cannot_be_filled_by_fewer_tokens() -> None:
    stages = [stage(tokens=1, weights={"few": 1.0})] * 3
    with pytest.raises(DiptychError, match=r"3 records of few, 1.50 epochs of its 2; .* fills at most 0 of 3 tokens"):
        resolve(stages, [span("few", 2, 200)], repeat=False)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"tokens": 10, "weights": {"quorra": 1}}, "data.mixture.0.weights: no source named 'quorra' has training"),
        ({"tokens": 10, "weights": {"quorra": 1}}, "did you mean quora?"),
        ({"budgets": {"zzz": 1}}, "data.mixture.0.budgets: no source named 'zzz'"),
        ({"budgets": {"zzz": 1}}, "known: captions, quora, regex"),
    ],
)
def test_an_unknown_source_is_refused_with_the_nearest(part: dict[str, Any], message: str) -> None:
    with pytest.raises(DiptychError, match=re.escape(message)):
        resolve([stage(**part)], ALL, repeat=False)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({}, "give either weights"),
        ({"tokens": 5, "weights": {"a": 1}, "budgets": {"a": 1}}, "give either weights"),
        ({"weights": {"a": 1}}, "weights need the tokens"),
        ({"tokens": 5, "budgets": {"a": 1}}, "budgets leave tokens out"),
        ({"tokens": 5, "weights": {"a": -1, "b": 2}}, "no part may be negative"),
        ({"tokens": 5, "weights": {"a": 0}}, "one must be positive"),
        ({"tokens": 0, "weights": {"a": 1}}, "greater than or equal to 1"),
        ({"tokens": 5, "weights": {"a": float("nan")}}, "finite"),
        ({"token": 5}, "Extra inputs"),
    ],
)
def test_a_stage_that_says_nothing_or_two_things_is_refused(part: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        stage(**part)
