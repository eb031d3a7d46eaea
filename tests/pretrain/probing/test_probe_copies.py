"""Copies of a text and rows of one group lie on one side of every split, get one shuffled label, and count once."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.branches import View
from pretrain.model.network import BranchNetwork
from pretrain.probing.classifier import STRENGTHS, _folds, choose_strength, fit_probe
from pretrain.probing.copies import find_copies
from pretrain.probing.sampling import shuffled_labels
from pretrain.runtime.errors import DiptychError
from tests.pretrain.probing.test_probe_training import prober
from tests.support.splits import MadeSplit
from tests.support.tiny import tiny_llama

ROWS = st.lists(
    st.tuples(st.integers(0, 12), st.none() | st.integers(0, 6), st.integers(0, 2)), min_size=4, max_size=60
)


@given(ROWS)
def test_clusters_are_what_texts_and_groups_connect(rows: list[tuple[int, int | None, int]]) -> None:
    copies = find_copies([text for text, _, _ in rows], [group for _, group, _ in rows])
    # Reference: labels that spread until nothing changes.
    expected = list(range(len(rows)))
    for _ in rows:
        for one, (text, group, _) in enumerate(rows):
            for other, (another, its, _) in enumerate(rows):
                if text == another or (group is not None and group == its):
                    expected[one] = expected[other] = min(expected[one], expected[other])
    assert [expected.index(value) for value in expected] == [
        copies.clusters.tolist().index(number) for number in copies.clusters.tolist()
    ]
    assert copies.num_repeated == len(rows) - len({text for text, _, _ in rows})
    assert copies.num_clusters == len(set(expected))


@given(ROWS, st.integers(2, 5), st.integers(0, 3))
def test_no_fold_divides_a_cluster(rows: list[tuple[int, int | None, int]], folds: int, seed: int) -> None:
    copies = find_copies([text for text, _, _ in rows], [group for _, group, _ in rows])
    labels = np.array([label for _, _, label in rows], np.int64)
    folds = min(folds, copies.num_clusters)
    found = _folds(labels, folds, seed, copies.clusters)
    for cluster in np.unique(copies.clusters):
        assert len(set(found[copies.clusters == cluster].tolist())) == 1
    assert sorted(set(found.tolist())) == list(range(folds))


def test_folds_stay_stratified_with_copies() -> None:
    draw = np.random.default_rng(0)
    texts = np.repeat(np.arange(300), draw.integers(1, 5, 300))
    labels = (draw.random(300) < 0.3).astype(np.int64)[texts]
    found = _folds(labels, 5, 0, texts)
    for label in range(2):
        counts = np.bincount(found[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1  # there are single rows enough to level what larger clusters leave
    assert np.bincount(found).max() - np.bincount(found).min() <= 2


def test_without_copies_the_folds_are_the_plain_ones() -> None:
    labels = np.random.default_rng(1).integers(0, 3, 101)
    plain = _folds(labels, 5, 3)
    assert np.array_equal(_folds(labels, 5, 3, np.arange(101)), plain)
    # One pair of copies changes little: all else goes the way of single rows.
    pair = np.concatenate([[0], np.arange(100)])
    assert sorted(np.bincount(_folds(labels, 5, 3, pair)).tolist()) == [20, 20, 20, 20, 21]


def meaningless(copies_of_each: int = 8, num_texts: int = 120) -> tuple[Any, Any, Any]:
    """Features that tell texts apart, and labels by text that nothing in them tells."""
    draw = np.random.default_rng(0)
    texts = np.repeat(np.arange(num_texts), copies_of_each)
    features = draw.normal(size=(num_texts, 256)).astype(np.float32)[texts]
    return features, draw.permutation(np.arange(num_texts) % 2)[texts], texts


def test_copies_teach_nothing_about_each_other() -> None:
    x, y, texts = meaningless()
    read = choose_strength(x, y, seed=0, strengths=STRENGTHS, folds=5)[1]
    assert read > 0.97  # what the probe remembers of the copies in the other folds
    apart = choose_strength(x, y, seed=0, strengths=STRENGTHS, folds=5, clusters=texts)[1]
    assert apart == pytest.approx(0.5, abs=0.12)
    found = fit_probe(x, y, x, y, num_classes=2, seed=0, clusters=texts)
    assert found.cv_accuracy == apart
    with pytest.raises(DiptychError, match="here: all 8 training rows are copies of one text or of one group"):
        choose_strength(x[:8], np.arange(8) % 2, seed=0, strengths=[1.0], folds=5, clusters=texts[:8], place="here")


def test_shuffled_labels_are_by_text() -> None:
    _, y, texts = meaningless(num_texts=121)
    y[:3] = 1 - y[0]  # copies that contradict each other
    copies = find_copies(texts.tolist())
    shuffled = shuffled_labels(y, 4, copies)
    firsts = y[::8]
    assert all(len(set(shuffled[texts == text].tolist())) == 1 for text in range(121))
    assert np.bincount(shuffled[::8]).tolist() == np.bincount(firsts).tolist()
    assert 0.3 < np.mean(shuffled == y) < 0.7
    assert not np.array_equal(shuffled, shuffled_labels(y, 5, copies))
    # Without copies the order is that of the labels themselves.
    assert np.array_equal(shuffled_labels(y, 4, find_copies(range(len(y)))), shuffled_labels(y, 4))


def test_shuffled_labels_keep_what_a_group_has_in_common() -> None:
    groups = np.repeat(np.arange(40), 3)
    constant = np.arange(40) % 2
    found = shuffled_labels(constant[groups], 0, find_copies(range(120), groups.tolist())).reshape(40, 3)
    assert (found == found[:, :1]).all() and 0.25 < np.mean(found[:, 0] == constant) < 0.75
    # A group of both classes has both afterwards too, and larger groups repeat the labels of smaller ones.
    mixed = np.tile([0, 1, 1], 40)
    found = shuffled_labels(mixed, 0, find_copies(range(120), groups.tolist())).reshape(40, 3)
    assert (found.sum(axis=1) == 2).all()
    sizes = find_copies(range(5), ["a", "a", "b", "b", "b"])
    assert sorted(shuffled_labels(np.array([0, 1, 1, 1, 1]), seed, sizes).sum() for seed in range(8))[0] >= 3


class RepeatedSplit(MadeSplit):
    """Records whose first views are copies of so many texts, with labels without meaning."""

    def __init__(self, records: int, num_texts: int, groups: bool = False) -> None:
        super().__init__({"made": records}, wordings=2)
        self.num_texts, self.groups = num_texts, groups

    def views(self, record: int, wordings: tuple[int, int] = (0, 1)) -> tuple[View, View]:
        text, second = record % self.num_texts, super().views(record)[1]
        # Texts of one group differ in their first token.
        own = record // self.num_texts if self.groups else 0
        return View([3 + own, 4 + text // 50, 10 + text % 7, 3 + text % 50], True), second

    def pairs(self, records: Any, keys: Any = None) -> Any:
        found = super().pairs(records, keys)
        found.lengths[:, 0] = 4
        return found

    def label(self, record: int) -> int:
        return int(np.random.default_rng(0).permutation(self.num_texts)[record % self.num_texts] % 2)

    def group(self, record: int) -> int | None:
        return record % self.num_texts if self.groups else None


@pytest.mark.parametrize("groups", [False, True])
def test_a_probe_while_training_does_not_read_copies(groups: bool) -> None:
    torch.manual_seed(0)
    network = BranchNetwork(tiny_llama().eval())
    split = RepeatedSplit(480, 60, groups)
    found = prober(split, records=480, layout="independent")
    assert found.copies.num_clusters == 60
    assert found.copies.num_repeated == (0 if groups else 420)
    scores = found.run(network)
    assert scores["probe/majority"] == 0.5
    assert scores["probe/accuracy"] == pytest.approx(0.5, abs=0.2)
    assert scores["probe/shuffled"] == pytest.approx(0.5, abs=0.2)
    if not groups:  # the same embeddings, had folds been drawn by row
        found.copies = find_copies(range(480))
        assert found.run(network)["probe/accuracy"] > 0.9


def test_texts_are_counted_rather_than_records() -> None:
    with pytest.raises(DiptychError, match=r"480 of 480 held-out .* have a label, with 19 different texts or groups"):
        prober(RepeatedSplit(480, 19), records=480, layout="independent")
