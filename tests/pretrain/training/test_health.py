"""Health figures of spaces whose state is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.training.health import effective_rank, health, relative_std

MATCHING = ("paired_cosine", "unpaired_cosine", "margin", "retrieval_at_1")


def normal(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("rows", "width"), [(2, 3), (7, 5), (100, 64), (513, 33), (257, 192)])
def test_a_space_collapsed_to_a_point_shows_as_collapsed(rows: int, width: int) -> None:
    point = normal(1, width).expand(rows, width).clone()
    figures = health(point, point.clone(), point.clone())
    assert figures["source_effective_rank"] == pytest.approx(1)
    assert figures["source_std"] == pytest.approx(0, abs=1e-6)
    for way in ("views", "prediction"):
        assert figures[f"{way}_paired_cosine"] == pytest.approx(1)
        assert figures[f"{way}_margin"] == pytest.approx(0, abs=1e-6)
        assert figures[f"{way}_retrieval_at_1"] == 0  # a tie is no hit


@pytest.mark.parametrize(("rows", "width"), [(2, 3), (7, 5), (100, 64), (513, 33), (257, 192)])
def test_a_space_collapsed_to_a_line_shows_as_collapsed(rows: int, width: int) -> None:
    """All vectors point one way and differ in length only, up to the rounding of float32."""
    line = (normal(rows, 1).abs() + 0.1) * normal(1, width)
    figures = health(line, line.clone(), None)
    assert figures["source_effective_rank"] == pytest.approx(1, abs=1e-3)
    assert figures["source_std"] == pytest.approx(0, abs=1e-6)
    assert figures["views_margin"] == pytest.approx(0, abs=1e-6)
    assert figures["views_retrieval_at_1"] == 0


def test_opposite_ends_of_a_line_have_rank_one_and_no_hits() -> None:
    line = torch.tensor([[1.0], [-1.0], [2.0], [-3.0]]) * normal(1, 8)
    figures = health(line, line, None)
    assert figures["source_effective_rank"] == pytest.approx(1, abs=1e-6)
    assert figures["views_retrieval_at_1"] == 0  # two others point the same way
    assert figures["views_unpaired_cosine"] == pytest.approx(-1 / 3)


def test_an_isotropic_space_has_full_rank_unit_spread_and_perfect_retrieval_of_itself() -> None:
    embeddings = normal(2000, 16)
    figures = health(embeddings, embeddings.clone(), None)
    assert figures["source_effective_rank"] == pytest.approx(16, rel=0.01)
    assert figures["source_std"] == pytest.approx(1, rel=0.01)
    assert figures["views_paired_cosine"] == pytest.approx(1)
    assert figures["views_unpaired_cosine"] == pytest.approx(0, abs=0.01)
    assert figures["views_retrieval_at_1"] == 1


def test_unrelated_spaces_match_by_chance_only() -> None:
    figures = health(normal(200, 32, 1), normal(200, 32, 2), normal(200, 32, 3))
    for way in ("views", "prediction"):
        assert abs(figures[f"{way}_margin"]) < 0.05
        assert figures[f"{way}_retrieval_at_1"] < 0.05


def test_one_hot_embeddings() -> None:
    """n centred one-hot vectors have n - 1 equal singular values; each is nearest to itself only."""
    count = 9
    figures = health(torch.eye(count), torch.eye(count), torch.eye(count).roll(1, dims=0))
    assert figures["source_effective_rank"] == pytest.approx(count - 1)
    assert figures["source_std"] == pytest.approx(math.sqrt(1 / count - 1 / count**2) * math.sqrt(count))
    assert [figures[f"views_{name}"] for name in MATCHING] == pytest.approx([1, 0, 1, 1])
    assert [figures[f"prediction_{name}"] for name in MATCHING] == pytest.approx(
        [0, 1 / (count - 1), -1 / (count - 1), 0]
    )


def test_a_target_that_two_share_is_no_hit_for_either() -> None:
    targets = torch.tensor([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    assert health(targets.clone(), targets, None)["views_retrieval_at_1"] == pytest.approx(1 / 3)


def test_figures_by_hand() -> None:
    source = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    target = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    figures = health(source, target, None)
    assert figures["views_paired_cosine"] == pytest.approx((0.6 + 1) / 2)
    assert figures["views_unpaired_cosine"] == pytest.approx((0 + 0.8) / 2)
    assert figures["views_margin"] == pytest.approx(0.4)
    assert figures["views_retrieval_at_1"] == 1


def test_the_identity_predictor_has_no_figures_of_its_own() -> None:
    plain = health(normal(5, 4), normal(5, 4, 1), None)
    assert not any(name.startswith("prediction") for name in plain)
    assert set(health(normal(5, 4), normal(5, 4, 1), normal(5, 4, 2))) - set(plain) == {
        f"prediction_{name}" for name in MATCHING
    }


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 20), st.integers(1, 12), st.integers(0, 12), st.integers(0, 10_000), st.floats(1e-3, 1e3))
def test_effective_rank_lies_within_its_bounds(rows: int, width: int, rank: int, seed: int, scale: float) -> None:
    embeddings = normal(rows, max(1, rank), seed) @ normal(max(1, rank), width, seed + 1) * scale
    found = effective_rank(embeddings)
    assert 1 - 1e-6 <= found <= max(1, min(rows - 1, width, max(1, rank))) + 1e-2
    assert effective_rank(embeddings * 4) == pytest.approx(found)
    assert effective_rank(embeddings + 3 * scale) == pytest.approx(found, abs=2e-2)


def test_effective_rank_of_known_singular_values() -> None:
    values = torch.tensor([4.0, 2.0, 1.0, 1.0])
    embeddings = torch.cat([torch.diag(values), -torch.diag(values)])  # mean 0, singular values sqrt(2) * values
    shares = values / 8
    assert effective_rank(embeddings) == pytest.approx(float(torch.exp(-(shares * shares.log()).sum())))


def test_values_that_are_not_finite_do_not_stop_a_run() -> None:
    assert effective_rank(torch.zeros(4, 3)) == 1
    assert relative_std(torch.zeros(4, 3)) == 0
