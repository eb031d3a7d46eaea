"""Probes, their statistics, controls and geometry, against exact values, scikit-learn and scipy."""

import json
import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from scipy.stats import binom, binomtest, multinomial, norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from pretrain.probing import classifier
from pretrain.probing.classifier import STRENGTHS, ProbeOutcome, choose_strength, fit_probe
from pretrain.probing.sampling import curve_sizes, shuffled_labels, stratified_order, subset
from pretrain.runtime.errors import DiptychError
from probes.probing.controls import WORD_STRENGTHS, majority, tfidf
from probes.probing.geometry import (
    anisotropy,
    isotropy,
    linear_cka_matrix,
    pair_scores,
    rankme,
)
from probes.probing.projection import project
from probes.probing.scores import ProbeScore, probe_scores
from probes.probing.statistics import compare, confusion, holm, mcnemar, score_predictions
from probes.results import Estimate, Score

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def linear_cka(first: np.ndarray, second: np.ndarray) -> float:
    return float(linear_cka_matrix([first], [second])[0, 0])


def clouds(
    seed: int = 0, train: int = 400, test: int = 300, classes: int = 2, width: int = 12, gap: float = 1.0
) -> Arrays:
    """Gaussian classes on scales that differ by feature: train x, train y, test x, test y."""
    generator = np.random.default_rng(seed)
    centres = gap * generator.normal(size=(classes, width))
    labels = generator.integers(classes, size=train + test)
    labels[: 2 * classes] = np.tile(np.arange(classes), 2)
    rows = centres[labels] + 2 * generator.normal(size=(train + test, width))
    rows = (rows * np.logspace(-3, 3, width) + 5).astype(np.float32)
    return rows[:train], labels[:train], rows[train:], labels[train:]


def probe(data: Arrays, classes: int = 2, **options: object) -> ProbeOutcome:
    return fit_probe(*data, num_classes=classes, **({"seed": 0} | options))  # type: ignore[arg-type]


class TestClassifier:
    @pytest.mark.parametrize("classes", [2, 4])
    @pytest.mark.parametrize("strength", [1e-3, 1.0])
    def test_is_standardised_logistic_regression(self, classes: int, strength: float) -> None:
        data = clouds(classes=classes)
        outcome = probe(data, classes, strength=strength)
        scaler = StandardScaler().fit(data[0].astype(np.float64))
        reference = LogisticRegression(C=strength, tol=1e-8, max_iter=5000)
        reference.fit(scaler.transform(data[0].astype(np.float64)), data[1])
        expected = reference.predict_proba(scaler.transform(data[2].astype(np.float64)))
        assert np.mean(outcome.predictions == expected.argmax(1)) > 0.99
        np.testing.assert_allclose(outcome.probabilities, expected.max(1), atol=2e-3)
        assert outcome.accuracy == np.mean(outcome.predictions == data[3])
        assert outcome.converged and outcome.cv_accuracy is None and outcome.strength == strength
        assert outcome.predictions.dtype == np.int64 and outcome.probabilities.dtype == np.float32

    def test_learns_what_is_there_and_is_the_same_again(self) -> None:
        data = clouds(gap=3.0)
        first, second = probe(data), probe(data)
        assert first.accuracy > 0.97 and first.cv_accuracy is not None and first.cv_accuracy > 0.97
        assert first.strength in STRENGTHS
        np.testing.assert_array_equal(first.predictions, second.predictions)
        np.testing.assert_array_equal(first.probabilities, second.probabilities)

    def test_the_strength_is_chosen_on_train_alone(self) -> None:
        x, y, test_x, test_y = clouds()
        other = probe((x, y, test_x * 100, 1 - test_y))
        assert (other.strength, other.cv_accuracy) == (probe((x, y, test_x, test_y)).strength, other.cv_accuracy)
        assert other.cv_accuracy == choose_strength(x, y, seed=0, strengths=STRENGTHS, folds=5)[1]

    def test_the_scaler_is_fitted_within_the_folds(self) -> None:
        # Standardised with the held-out outlier, all other rows of the only feature would fall together.
        x = np.tile([[0.0], [1.0]], (20, 1))
        y = np.tile([0, 1], 20)
        x[0], y[0] = -1e6, 0
        assert choose_strength(x, y, seed=0, strengths=[1.0], folds=5)[1] > 0.5

    def test_the_strength_fits_what_there_is_to_learn(self) -> None:
        x, y, *_ = clouds(gap=20.0)
        assert choose_strength(x, y, seed=0, strengths=STRENGTHS, folds=3)[0] >= 1.0
        noise = np.random.default_rng(0).integers(2, size=len(y))
        assert choose_strength(x, noise, seed=0, strengths=STRENGTHS, folds=3)[0] <= 1e-2

    def test_the_strength_has_the_least_loss_on_held_out_folds(self) -> None:
        x, y, *_ = clouds(classes=3)
        folds = classifier._folds(y, 4, seed=5)
        for label in range(3):
            counts = np.bincount(folds[y == label], minlength=4)
            assert counts.max() - counts.min() <= 1
        losses, right = [], []
        for strength in STRENGTHS:
            model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=5000))
            said = cross_val_predict(model, x, y, cv=PredefinedSplit(folds), method="predict_proba")
            losses.append(log_loss(y, said))
            right.append(np.mean(said.argmax(1) == y))
        strength, accuracy, converged = choose_strength(x, y, seed=5, strengths=STRENGTHS, folds=4)
        best = int(np.argmin(losses))
        assert strength == STRENGTHS[best] and converged
        assert accuracy == pytest.approx(right[best], abs=0.006)

    def test_a_rare_class_does_not_change_the_folds_of_the_others(self) -> None:
        x, y, _, _ = clouds(classes=2)
        rare = y.copy()
        rare[0] = 2
        _, accuracy, settled = choose_strength(x, rare, seed=0, strengths=[0.1], folds=5)
        inside = [classifier._folds(rare, 5, seed=0) != fold for fold in range(5)]
        right = 0
        for kept in inside:
            mean, scale = x[kept].mean(axis=0), x[kept].std(axis=0)
            model = LogisticRegression(C=0.1, tol=1e-8, max_iter=5000).fit((x[kept] - mean) / scale, rare[kept])
            right += int(np.sum(model.predict((x[~kept] - mean) / scale) == rare[~kept]))
        assert settled and accuracy == pytest.approx(right / len(y), abs=0.01)

    def test_sparse_features_are_not_standardised(self) -> None:
        generator = np.random.default_rng(0)
        x = sparse.random(200, 50, 0.1, format="csr", random_state=1, dtype=np.float64)
        y = (generator.random(200) < 0.5).astype(np.int64)
        outcome = fit_probe(x, y, x, y, num_classes=2, seed=0, strength=10.0)
        reference = LogisticRegression(C=10.0, tol=1e-8, max_iter=5000).fit(x, y)
        np.testing.assert_allclose(outcome.probabilities, reference.predict_proba(x).max(1), atol=5e-3)

    def test_a_class_that_train_lacks_is_never_predicted(self) -> None:
        x, y, test_x, test_y = clouds(classes=3)
        kept = y != 1
        outcome = probe((x[kept], y[kept], test_x, test_y), 3)
        assert set(np.unique(outcome.predictions)) == {0, 2}

    @pytest.mark.parametrize("counts", [(30, 1), (30, 2), (1, 1), (10, 3, 1)])
    def test_tiny_classes_lower_the_number_of_folds(self, counts: tuple[int, ...]) -> None:
        y = np.repeat(np.arange(len(counts)), counts)
        x = np.random.default_rng(0).normal(size=(len(y), 3)) + y[:, None]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert 0.0 <= (probe((x, y, x, y), len(counts)).cv_accuracy or 0.0) <= 1.0

    def test_constant_features_are_harmless(self) -> None:
        x, y, test_x, test_y = clouds(gap=3.0)
        x[:, 3] = test_x[:, 3] = 7.0
        assert probe((x, y, test_x, test_y)).accuracy > 0.95

    def test_steps_that_do_not_suffice_are_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classifier, "STEPS", 1)
        data = clouds(width=40)
        monkeypatch.setattr(classifier, "_classifier", lambda warm_start=False: LogisticRegression(tol=1e-12))
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            assert not probe(data, strength=100.0).converged

    def test_a_second_try_has_more_steps(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(classifier, "STEPS", 3)
        assert probe(clouds(), strength=0.01).converged

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda x, y, a, b: (np.where(np.arange(12) == 2, np.nan, x), y, a, b), "here: train: 400 rows hold NaN"),
            (lambda x, y, a, b: (x, y, a + np.float32(np.inf), b), "here: test: 300 rows hold NaN or infinite"),
            (lambda x, y, a, b: (x, np.zeros_like(y), a, b), "here: train has one class only, label 0"),
            (lambda x, y, a, b: (x[:2], np.array([0, 1]), a, b), "here: train has 2 rows for 3 classes"),
            (lambda x, y, a, b: (x, y[:-1], a, b), r"here: train: features of shape \(400, 12\) for 399 labels"),
            (lambda x, y, a, b: (x[:, :5], y, a, b), "here: train has 5 features, test has 12"),
            (lambda x, y, a, b: (x, y + 2, a, b), "here: train: labels must be integers from 0 to 2"),
            (lambda x, y, a, b: (x, y / 2, a, b), "here: train: labels must be integers from 0 to 2"),
            (lambda x, y, a, b: (x, y, a[:0], b[:0]), "here: test: no rows"),
        ],
    )
    def test_bad_input(self, change, message: str) -> None:  # type: ignore[no-untyped-def]
        with pytest.raises(DiptychError, match=message):
            probe(change(*clouds()), 3, place="here")

    def test_bad_settings(self) -> None:
        with pytest.raises(DiptychError, match="strengths"):
            probe(clouds(), strengths=[])
        with pytest.raises(DiptychError, match="strengths"):
            probe(clouds(), strengths=[1.0, -1.0])
        with pytest.raises(DiptychError, match="1 folds"):
            probe(clouds(), folds=1)


class TestSampling:
    @given(st.lists(st.integers(0, 4), min_size=1, max_size=80), st.integers(0, 5))
    @settings(max_examples=50, deadline=None)
    def test_prefixes_are_stratified(self, labels: list[int], seed: int) -> None:
        y = np.array(labels)
        order = stratified_order(y, seed)
        assert sorted(order) == list(range(len(y)))
        kinds, counts = np.unique(y, return_counts=True)
        for size in range(1, len(y) + 1):
            found = np.array([np.sum(y[order[:size]] == kind) for kind in kinds])
            assert np.abs(found - size * counts / len(y)).max() <= len(kinds)
            if size >= len(kinds):
                assert found.min() >= 1

    def test_subsets_are_nested_and_seeded(self) -> None:
        y = np.random.default_rng(0).integers(5, size=3000)
        small, large = subset(y, 100, 7), subset(y, 1000, 7)
        assert set(small) < set(large) and len(small) == 100 and len(large) == 1000
        assert np.all(np.diff(small) > 0)
        np.testing.assert_array_equal(small, subset(y, 100, 7))
        assert set(small) != set(subset(y, 100, 8))
        np.testing.assert_array_equal(subset(y, 3000, 1), np.arange(3000))
        with pytest.raises(DiptychError, match="train size 3001"):
            subset(y, 3001, 0)

    def test_balanced_classes_stay_balanced(self) -> None:
        y = np.repeat([0, 1], 500)
        assert np.bincount(y[subset(y, 100, 3)]).tolist() == [50, 50]

    def test_curve_sizes(self) -> None:
        assert curve_sizes(8530) == (100, 300, 1000, 3000, 8530)
        assert curve_sizes(300) == (100, 300)
        assert curve_sizes(60) == (60,)
        assert curve_sizes(40_000)[-2:] == (30_000, 40_000)

    def test_shuffled_labels_are_a_permutation(self) -> None:
        y = np.repeat([0, 1, 2], [50, 30, 20])
        shuffled = shuffled_labels(y, 0)
        assert np.bincount(shuffled).tolist() == [50, 30, 20]
        assert (shuffled != y).any()
        np.testing.assert_array_equal(shuffled, shuffled_labels(y, 0))
        assert (shuffled != shuffled_labels(y, 1)).any()


class TestScores:
    def test_a_curve_over_sizes_and_seeds(self) -> None:
        data = clouds(gap=1.5, train=600)
        scores = probe_scores(*data, num_classes=2, sizes=(50, 200, 600, 5000), seeds=(0, 1, 2), folds=3, resamples=200)
        assert [score.train_size for score in scores] == [50, 200, 600]
        small, whole = scores[0], scores[-1]
        assert small.accuracy.value < whole.accuracy.value
        assert (small.accuracy.std or 0.0) > 0
        assert whole.predictions.shape == whole.probabilities.shape == (3, 300)
        for score in scores:
            assert score.accuracy.low <= score.accuracy.value <= score.accuracy.high
            assert score.accuracy.value == pytest.approx((score.predictions == data[3]).mean())
            assert len(score.strengths) == 3 and score.converged

    def test_at_the_full_size_a_given_strength_leaves_nothing_to_the_seed(self) -> None:
        (score,) = probe_scores(*clouds(), num_classes=2, seeds=(0, 1), strength=0.1, resamples=200)
        assert score.accuracy.std == 0.0 and score.cv_accuracy is None
        np.testing.assert_array_equal(score.predictions[0], score.predictions[1])

    def test_shuffled_labels_teach_nothing(self) -> None:
        data = clouds(gap=3.0, width=200, train=200, test=600)
        (true,) = probe_scores(*data, num_classes=2, strength=1.0, resamples=200)
        (control,) = probe_scores(*data, num_classes=2, strength=1.0, shuffled=True, seeds=(0, 1, 2), resamples=200)
        assert true.accuracy.value > 0.95
        assert 0.3 < control.accuracy.value < 0.7
        assert control.shuffled and not true.shuffled
        selectivity = compare(data[3], true.predictions, control.predictions).difference
        assert selectivity.value == pytest.approx(true.accuracy.value - control.accuracy.value)

    def test_the_row_of_the_report(self) -> None:
        (score,) = probe_scores(*clouds(), num_classes=2, seeds=(3, 4), resamples=200)
        row = score.score("films", "model", layer=2, pooling="mean")
        assert row == Score(
            "films", "model", False, 2, "mean", 400, 2, score.cv_accuracy, score.accuracy, score.macro_f1,
            score.strengths[0], True,
        )  # fmt: skip

    def test_no_seeds(self) -> None:
        with pytest.raises(DiptychError, match="no seeds"):
            probe_scores(*clouds(), num_classes=2, seeds=())


class TestControls:
    def test_majority(self) -> None:
        score = majority(np.array([1, 1, 0]), np.array([1, 0, 0, 0]), 3)
        assert score.accuracy.value == 0.25 and score.macro_f1.value == pytest.approx(0.2)
        assert score.predictions.tolist() == [[1, 1, 1, 1]]
        assert score.probabilities[0, 0] == pytest.approx(2 / 3)
        row = score.score("films", "majority")
        assert (row.strength, row.cv_accuracy, row.layer, row.train_size) == (None, None, None, 3)

    def test_tfidf_learns_words(self) -> None:
        texts = [f"a {'fine' if index % 2 else 'dull'} film number{index}" for index in range(60)]
        y = np.arange(60) % 2
        scores = tfidf(texts[:40], y[:40], texts[40:], y[40:], num_classes=2, sizes=(10, 40), seeds=(0, 1))
        assert [score.accuracy.value for score in scores] == [1.0, 1.0]

    def test_texts_without_words(self) -> None:
        y = np.arange(10) % 2
        with pytest.raises(DiptychError, match="films: train texts hold no words"):
            tfidf([""] * 10, y, ["a"] * 10, y, num_classes=2, place="films")

    @pytest.mark.parametrize(
        ("name", "reference", "strengths"),
        [
            ("rotten_tomatoes", 0.790, WORD_STRENGTHS),
            ("subj", 0.912, WORD_STRENGTHS),
            ("sst5", 0.410, (1.0,)),  # the choice of cross-validation, given for time
        ],
    )
    def test_tfidf_reaches_the_reference(
        self, shared: Path, name: str, reference: float, strengths: tuple[float, ...]
    ) -> None:
        (train_texts, train_y), (test_texts, test_y) = (
            read(shared / "data" / name, part) for part in ("train", "test")
        )
        (score,) = tfidf(
            train_texts, train_y, test_texts, test_y, num_classes=int(train_y.max()) + 1, strengths=strengths, folds=3
        )
        print(f"TF-IDF on {name}: {score.accuracy.value:.4f} at C = {score.strengths}")
        assert score.accuracy.value == pytest.approx(reference, abs=0.006)
        assert score.converged


def read(folder: Path, part: str) -> tuple[list[str], np.ndarray]:
    rows = [json.loads(line) for line in (folder / f"{part}.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row["text"] for row in rows], np.array([row["label"] for row in rows])


class TestStatistics:
    def test_points_are_those_of_scikit_learn(self) -> None:
        generator = np.random.default_rng(0)
        gold = generator.integers(4, size=500)
        said = np.where(generator.random((3, 500)) < 0.6, gold, generator.integers(3, size=(3, 500)))
        scores = score_predictions(gold, said, 5)  # class 4 does not occur
        accuracies = [accuracy_score(gold, row) for row in said]
        f1s = [f1_score(gold, row, average="macro", zero_division=0) for row in said]
        assert scores.accuracy.value == pytest.approx(np.mean(accuracies))
        assert scores.accuracy.std == pytest.approx(np.std(accuracies, ddof=1))
        assert scores.macro_f1.value == pytest.approx(np.mean(f1s))
        assert scores.macro_f1.std == pytest.approx(np.std(f1s, ddof=1))
        np.testing.assert_array_equal(confusion(gold, said[0], 4), confusion_matrix(gold, said[0]))

    def test_the_bootstrap_is_that_of_resampled_rows(self) -> None:
        generator = np.random.default_rng(0)
        gold = generator.integers(3, size=300)
        said = np.where(generator.random((2, 300)) < 0.6, gold, generator.integers(3, size=(2, 300)))
        scores = score_predictions(gold, said, 3, resamples=4000)
        rows = generator.integers(300, size=(1500, 300))
        f1s = [np.mean([f1_score(gold[row], one[row], average="macro") for one in said]) for row in rows[:400]]
        accuracies = (said == gold).mean(axis=0)[rows].mean(axis=1)
        low, high = np.quantile(accuracies, [0.025, 0.975])
        assert (scores.accuracy.low, scores.accuracy.high) == pytest.approx((low, high), abs=0.008)
        low, high = np.quantile(f1s, [0.025, 0.975])
        assert (scores.macro_f1.low, scores.macro_f1.high) == pytest.approx((low, high), abs=0.015)

    def test_a_thousand_classes_fit_in_memory(self) -> None:
        generator = np.random.default_rng(0)
        gold = generator.integers(1000, size=3000)
        said = np.where(generator.random(3000) < 0.8, gold, generator.integers(1000, size=3000))
        tracemalloc.start()
        try:
            scores = score_predictions(gold, said, 1000, resamples=2000)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 150e6  # a confusion matrix for each of a block of resamples: gigabytes
        assert scores.macro_f1.value == pytest.approx(f1_score(gold, said, average="macro", zero_division=0))
        rows = generator.integers(3000, size=(100, 3000))
        f1s = [f1_score(gold[row], said[row], average="macro", zero_division=0) for row in rows]
        # A resample lacks classes of few examples: its macro-F1 need not lie around that of the examples.
        middle = (scores.macro_f1.low + scores.macro_f1.high) / 2
        assert middle == pytest.approx(np.mean(f1s), abs=0.005)

    def test_one_seed_has_no_std_and_the_interval_is_seeded(self) -> None:
        gold, said = np.array([0, 1, 1, 0]), np.array([0, 1, 0, 0])
        first = score_predictions(gold, said, 2)
        assert first.accuracy.std is None
        assert first == score_predictions(gold, said, 2)
        wilson = binomtest(4, 4).proportion_ci(method="wilson")
        assert score_predictions(gold, gold, 2).accuracy == Estimate(1.0, pytest.approx(wilson.low), 1.0, None)
        assert score_predictions(gold, gold, 2).macro_f1 == Estimate(1.0, 1.0, 1.0, None)

    def test_few_errors_widen_the_interval(self) -> None:
        gold = np.zeros(200, np.int64)
        for errors in (0, 1, 9, 10, 190, 191, 200):
            said = (np.arange(200) < errors).astype(np.int64)
            found = score_predictions(gold, said, 2).accuracy
            wilson = binomtest(200 - errors, 200).proportion_ci(method="wilson")
            few = min(errors, 200 - errors) < 10
            assert (found.low <= wilson.low + 1e-12 and found.high >= wilson.high - 1e-12) == few, errors
            assert 0.0 <= found.low <= found.value <= found.high <= 1.0
        # The mean over seeds counts: 10 errors of one seed, none of the other.
        said = np.stack([(np.arange(200) < 10).astype(np.int64), gold])
        wilson = binomtest(195, 200).proportion_ci(method="wilson")
        assert score_predictions(gold, said, 2).accuracy.high == pytest.approx(max(wilson.high, 0.9925), abs=0.003)

    @pytest.mark.parametrize("truth", [0.02, 0.98, 0.99])
    @pytest.mark.parametrize("count", [60, 200])
    def test_the_interval_covers_near_its_ends(self, truth: float, count: int) -> None:
        # Exact: every number of right answers, weighted by how likely it is.
        gold, covered = np.ones(count, np.int64), 0.0
        for right in range(count + 1):
            chance = float(binom.pmf(right, count, truth))
            if chance > 1e-6:
                said = (np.arange(count) < right).astype(np.int64)
                found = score_predictions(gold, said, 2, resamples=500).accuracy
                covered += chance * (found.low <= truth <= found.high)
        assert covered >= 0.92

    def test_the_interval_covers_the_truth_at_the_stated_rate(self) -> None:
        generator = np.random.default_rng(1)
        covered = covered_f1 = 0
        for run in range(400):
            gold = (generator.random(500) < 0.4).astype(np.int64)
            # P(right) is .8 and .7: accuracy .6 · .8 + .4 · .7; F1 = 2 TP / (gold + predicted) by class.
            said = np.where(generator.random(500) < np.where(gold == 1, 0.7, 0.8), gold, 1 - gold)
            scores = score_predictions(gold, said, 2, resamples=1000, seed=run)
            covered += scores.accuracy.low <= 0.76 <= scores.accuracy.high
            truth = np.mean([2 * 0.48 / (0.6 + 0.60), 2 * 0.28 / (0.4 + 0.40)])
            covered_f1 += scores.macro_f1.low <= truth <= scores.macro_f1.high
        print(f"coverage: accuracy {covered / 400:.3f}, macro-F1 {covered_f1 / 400:.3f}")
        assert 0.92 <= covered / 400 <= 0.98
        assert 0.92 <= covered_f1 / 400 <= 0.98

    def test_differences_cover_the_truth_and_errors_of_the_first_kind_are_rare(self) -> None:
        generator = np.random.default_rng(2)
        covered = rejected = 0
        for run in range(400):
            gold = np.zeros(400, np.int64)
            hard = generator.random(400)  # shared difficulty: the two systems are correlated
            first, second = ((generator.random((2, 400)) * 0.5 + 0.5 * hard) > 0.6).astype(np.int64)
            found = compare(gold, first, second, resamples=1000, seed=run)
            covered += found.difference.low <= 0 <= found.difference.high
            rejected += found.mcnemar < 0.05
        print(f"coverage of the difference {covered / 400:.3f}, McNemar rejects {rejected / 400:.3f}")
        assert 0.92 <= covered / 400 <= 0.98
        assert rejected / 400 <= 0.05

    @pytest.mark.parametrize(
        ("count", "win", "loss"), [(300, 0.004, 0.0), (1000, 0.001, 0.0), (60, 0.02, 0.0), (1066, 0.002, 0.0005)]
    )
    def test_differences_on_few_examples_cover_the_truth(self, count: int, win: float, loss: float) -> None:
        # Exact: every number of wins and losses, weighted by how likely it is. The bootstrap alone covers 63 to 87 %.
        gold, covered = np.zeros(count, np.int64), 0.0
        for wins, losses in np.ndindex(16, 12):
            chance = float(multinomial.pmf([wins, losses, count - wins - losses], count, [win, loss, 1 - win - loss]))
            if chance > 1e-6:
                first, second = disagreeing(count, wins, losses)
                # Both wrong, differently: without a win or loss too they are no copies, which have [0, 0] by decision.
                first[-1], second[-1] = 1, 2
                found = compare(gold, first, second, resamples=500).difference
                covered += chance * (found.low <= win - loss <= found.high)
        print(f"coverage of the difference {covered:.3f}")
        assert covered >= 0.93

    def test_few_disagreements_widen_the_interval_of_the_difference(self) -> None:
        gold = np.zeros(200, np.int64)
        for wins, losses in [(1, 0), (3, 0), (4, 0), (2, 3), (0, 9), (5, 5), (12, 0)]:
            found = compare(gold, *disagreeing(200, wins, losses)).difference
            low, high = tango(wins, losses, 200)
            few = wins + losses < 10
            assert (found.low <= low + 1e-9 and found.high >= high - 1e-9) == few, (wins, losses)
            # As in McNemar's χ², of which the score at 0 is the root: 3 wins against none are no difference.
            assert not few or (low <= 0 <= high) == ((wins - losses) ** 2 <= 1.96**2 * (wins + losses))
            assert found.low <= found.value <= found.high
        # A seed of two that disagrees counts by half.
        first, second = disagreeing(200, 6, 2)
        found = compare(gold, np.stack([first, second]), second).difference
        low, high = tango(3, 1, 200)
        assert found.low == pytest.approx(low) and found.high == pytest.approx(high)
        # Where few agree it is the same: the bootstrap alone is [1, 1].
        always = compare(gold, gold, gold + 1).difference
        assert always.low == pytest.approx((200 - 1.96**2) / (200 + 1.96**2), abs=1e-5) and always.high == 1.0

    def test_right_on_the_same_examples_is_not_the_same_system(self) -> None:
        gold, first, second = np.zeros(50, np.int64), np.zeros(50, np.int64), np.zeros(50, np.int64)
        first[0], second[0] = 1, 2
        half = 1.96**2 / (50 + 1.96**2)
        found = compare(gold, first, second)
        assert found.mcnemar == 1.0 and found.difference.value == 0.0
        assert (found.difference.low, found.difference.high) == pytest.approx((-half, half), abs=1e-5)
        # The order of the seeds does not matter to what is a copy.
        both = np.stack([first, second])
        assert compare(gold, both, both[::-1]).difference == Estimate(0.0, 0.0, 0.0, 0.0)

    def test_an_obvious_difference_is_found(self) -> None:
        generator = np.random.default_rng(0)
        gold = generator.integers(2, size=1000)
        first, second = (np.where(generator.random(1000) < p, gold, 1 - gold) for p in (0.9, 0.8))
        found = compare(gold, first, second)
        assert found.mcnemar < 1e-6 and found.difference.low > 0.05
        swapped = compare(gold, second, first)
        assert swapped.mcnemar == found.mcnemar
        assert swapped.difference.value == pytest.approx(-found.difference.value)

    @given(st.integers(1, 5), st.integers(2, 40), st.integers(0, 100))
    @settings(max_examples=30, deadline=None)
    def test_copies_are_never_different(self, seeds: int, count: int, seed: int) -> None:
        generator = np.random.default_rng(seed)
        gold, said = generator.integers(3, size=count), generator.integers(3, size=(seeds, count))
        found = compare(gold, said, said.copy(), resamples=100)
        assert found.difference == Estimate(0.0, 0.0, 0.0, 0.0 if seeds > 1 else None)
        assert found.mcnemar == 1.0
        # The same predictions by more seeds are the same system too.
        assert compare(gold, said, np.tile(said, (3, 1)), resamples=100).difference == Estimate(0.0, 0.0, 0.0)

    def test_mcnemar_is_the_binomial_test(self) -> None:
        first = np.array([1] * 12 + [0] * 4 + [1] * 50 + [0] * 9, bool)
        second = np.array([0] * 12 + [1] * 4 + [1] * 50 + [0] * 9, bool)
        assert mcnemar(first, second) == pytest.approx(binomtest(12, 16).pvalue)
        assert mcnemar(first, second) == pytest.approx(0.076812744140625)  # 2 · P(X ≤ 4), X ~ B(16, ½)

    def test_seeds_vote_by_example(self) -> None:
        first = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 0]], bool)
        second = np.array([[0, 1, 0, 0], [0, 0, 0, 1]], bool)
        # Shares: 1 against 0, 2/3 against 1/2, 1/3 against 0, 0 against 1/2.
        assert mcnemar(first, second) == pytest.approx(binomtest(3, 4).pvalue)
        gold = np.ones(4, np.int64)
        found = compare(gold, first.astype(np.int64), second.astype(np.int64)).difference
        assert found.value == pytest.approx(2 / 4 - 1 / 4) and found.std is None

    def test_holm(self) -> None:
        assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
        assert holm([0.6, 0.7]) == (1.0, 1.0)
        assert holm([]) == ()
        with pytest.raises(DiptychError, match="p-values"):
            holm([0.1, float("nan")])

    def test_bad_input(self) -> None:
        with pytest.raises(DiptychError, match="one per label"):
            score_predictions([0, 1], [0], 2)
        with pytest.raises(DiptychError, match="one per label"):
            compare([], [], [])
        with pytest.raises(DiptychError, match="integers from 0 to 1"):
            score_predictions([0, 1], [0, 2], 2)


def disagreeing(count: int, wins: int, losses: int) -> tuple[np.ndarray, np.ndarray]:
    """Predictions of two systems of which only one is right, label 0, on some of the first examples."""
    places = np.arange(count)
    return ((places >= wins) & (places < wins + losses)).astype(np.int64), (places < wins).astype(np.int64)


def tango(wins: float, losses: float, count: int) -> tuple[float, float]:
    """Tango's limits by bisection: where the score, at the most likely probability of a loss, reaches ±1.96."""

    def score(difference: float) -> float:
        linear = (2 * count - wins + losses) * difference - wins - losses
        root = np.sqrt(max(0.0, linear**2 + 8 * count * losses * difference * (1 - difference)))
        variance = count * ((root - linear) / (2 * count) + difference * (1 - difference))
        return float((wins - losses - count * difference) / np.sqrt(variance))

    middle, ends = (wins - losses) / count, []
    for side in (-1, 1):
        inside, outside = middle, float(side)
        for _ in range(50):
            half = (inside + outside) / 2
            inside, outside = (half, outside) if abs(score(half)) < norm.ppf(0.975) else (inside, half)
        ends.append(inside)
    return ends[0], ends[1]


def rotation(width: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]


class TestGeometry:
    def test_rankme(self) -> None:
        x = np.diag([3.0, 1.0, 0.0, 0.0])
        assert rankme(x) == pytest.approx(np.exp(-(0.75 * np.log(0.75) + 0.25 * np.log(0.25))))
        assert rankme(np.eye(6)) == pytest.approx(6)
        assert rankme(np.ones((50, 8), np.float32)) == pytest.approx(1.0, abs=1e-9)  # collapsed
        assert rankme(np.zeros((5, 3))) == 1.0

    @pytest.mark.parametrize("shape", [(500, 20), (20, 500), (5000, 20)])
    def test_rankme_against_singular_values(self, shape: tuple[int, int]) -> None:
        x = np.random.default_rng(0).normal(size=shape).astype(np.float32) + 1
        singular = np.linalg.svd(x.astype(np.float64), compute_uv=False)
        shares = singular / singular.sum()
        assert rankme(x) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)

    def test_isotropy_follows_the_steps_of_the_paper(self) -> None:
        x = np.random.default_rng(0).normal(size=(300, 7)) * np.arange(1, 8)
        variances = np.linalg.eigvalsh(np.cov(x.T))
        scaled = np.sqrt(7) * variances / np.linalg.norm(variances)
        defect = np.linalg.norm(scaled - 1) / np.sqrt(2 * (7 - np.sqrt(7)))
        score = ((7 - defect**2 * (7 - np.sqrt(7))) ** 2 - 7) / (7 * 6)
        assert isotropy(x) == pytest.approx(score)

    def test_isotropy_of_extremes(self) -> None:
        cross = np.vstack([np.eye(4), -np.eye(4)])
        assert isotropy(cross) == pytest.approx(1.0)
        assert isotropy(cross @ rotation(4) * 3 + 9) == pytest.approx(1.0)
        assert isotropy(np.outer(np.arange(10.0), [1.0, 2.0, 3.0])) == pytest.approx(0.0, abs=1e-12)
        assert isotropy(np.full((10, 3), 0.1, np.float32)) == 0.0

    def test_anisotropy_is_the_mean_cosine_of_distinct_rows(self) -> None:
        x = np.random.default_rng(0).normal(size=(60, 5)) + 0.5
        x[7] = 0
        units = x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
        cosines = units @ units.T
        assert anisotropy(x) == pytest.approx((cosines.sum() - np.trace(cosines)) / (60 * 59))
        assert anisotropy(np.ones((9, 3))) == pytest.approx(1.0)
        assert anisotropy(np.array([[1.0, 0], [-1.0, 0]])) == pytest.approx(-1.0)

    def test_pairs(self) -> None:
        perfect = pair_scores(np.eye(4), 2 * np.eye(4))
        assert (perfect.margin, perfect.retrieval, perfect.mrr) == pytest.approx((1.0, 1.0, 1.0))
        worst = pair_scores(np.eye(2), np.eye(2)[::-1])
        assert (worst.margin, worst.retrieval, worst.mrr) == pytest.approx((-1.0, 0.0, 0.5))

    def test_pairs_against_the_whole_matrix(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("probes.probing.geometry._COSINES", 150)  # several blocks
        generator = np.random.default_rng(0)
        first = generator.normal(size=(40, 6))
        second = first + generator.normal(size=(40, 6))
        cosines = (first / np.linalg.norm(first, axis=1)[:, None]) @ (
            second / np.linalg.norm(second, axis=1)[:, None]
        ).T
        ranks = np.concatenate([(table >= np.diag(table)[:, None]).sum(1) for table in (cosines, cosines.T)])
        found = pair_scores(first, second)
        assert found.retrieval == pytest.approx((ranks == 1).mean())
        assert found.mrr == pytest.approx((1 / ranks).mean())
        assert found.margin == pytest.approx(
            np.diag(cosines).mean() - (cosines.sum() - np.trace(cosines)) / (40 * 39), abs=1e-6
        )

    def test_a_collapsed_representation_scores_chance(self) -> None:
        x = np.full((10, 4), 0.3) + 1e-9 * np.random.default_rng(0).normal(size=(10, 4))
        found = pair_scores(x, x)
        assert found.retrieval == pytest.approx(0.1)
        assert found.mrr == pytest.approx(np.mean(1 / np.arange(1, 11)))
        assert found.margin == pytest.approx(0.0, abs=1e-6)
        assert pair_scores(np.zeros((10, 4)), np.zeros((10, 4))).retrieval == pytest.approx(0.1)

    def test_a_text_that_occurs_twice_shares_its_place(self) -> None:
        views = np.eye(3)[[0, 0, 1, 2]]
        found = pair_scores(views, views)
        assert found.retrieval == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
        assert found.mrr == pytest.approx((0.75 + 0.75 + 1 + 1) / 4)

    def test_cka_invariances(self) -> None:
        x = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
        assert linear_cka(x, x) == pytest.approx(1.0)
        assert linear_cka(x, 3 * x @ rotation(8) + 5) == pytest.approx(1.0, abs=1e-6)
        y = x @ np.diag(np.arange(8.0)) + np.random.default_rng(1).normal(size=(100, 8))
        assert linear_cka(x, y) == pytest.approx(linear_cka(y, x))
        assert linear_cka(x, y) == pytest.approx(linear_cka(x @ rotation(8), 0.01 * y @ rotation(8, 2)), abs=1e-6)
        assert 0.1 < linear_cka(x, y) < 1

    def test_cka_is_the_unbiased_estimate(self) -> None:
        generator = np.random.default_rng(0)
        x, y = generator.normal(size=(30, 5)), generator.normal(size=(30, 9))
        y[:, :3] += x[:, :3]

        def hsic(k: np.ndarray, m: np.ndarray) -> float:
            n = len(k)
            k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
            return float(np.trace(k @ m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * (k @ m).sum() / (n - 2))

        k, m = x @ x.T, y @ y.T
        assert linear_cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))

    def test_unrelated_representations_have_cka_near_0(self) -> None:
        generator = np.random.default_rng(0)
        values = [linear_cka(generator.normal(size=(60, 40)), generator.normal(size=(60, 40))) for _ in range(30)]
        assert abs(np.mean(values)) < 0.02  # the plain estimate: 0.4

    def test_cka_of_layers(self) -> None:
        layers = [np.random.default_rng(seed).normal(size=(50, 6)) for seed in range(3)]
        collapsed = np.ones((50, 6))
        table = linear_cka_matrix([*layers, collapsed], layers)
        assert table.shape == (4, 3)
        np.testing.assert_allclose(np.diag(table), 1.0)
        assert table[0, 1] == pytest.approx(linear_cka(layers[0], layers[1]))
        assert (table[3] == 0).all()

    def test_bad_input(self) -> None:
        good, bad = np.ones((5, 3)), np.full((5, 3), np.nan)
        for call in (rankme, isotropy, anisotropy):
            with pytest.raises(DiptychError, match=f"{call.__name__}: NaN"):
                call(bad)
            with pytest.raises(DiptychError, match="at least 2 texts"):
                call(good[:1])
        with pytest.raises(DiptychError, match="pairs: views of shapes"):
            pair_scores(good, good[:4])
        with pytest.raises(DiptychError, match="at least 4 texts"):
            linear_cka(good[:3], good[:3])
        with pytest.raises(DiptychError, match="give the same texts"):
            linear_cka(good, good[:4])
        with pytest.raises(DiptychError, match="one dimension"):
            isotropy(good[:, :1])


class TestProjection:
    def test_axes_variances_and_signs(self) -> None:
        generator = np.random.default_rng(0)
        x = generator.normal(size=(300, 2)) * [5, 1] @ np.array([[0.6, 0.0, -0.8], [0.0, 1.0, 0.0]])
        shown = project(x, np.zeros(300, np.int64))
        np.testing.assert_array_equal(shown.rows, np.arange(300))
        # The largest weights, −0.8 and 1, are made positive.
        np.testing.assert_allclose(np.corrcoef(shown.points[:, 0], x[:, 2])[0, 1], 1.0, atol=1e-6)
        np.testing.assert_allclose(np.corrcoef(shown.points[:, 1], x[:, 1])[0, 1], 1.0, atol=0.01)
        np.testing.assert_allclose(shown.points.mean(axis=0), 0, atol=1e-12)

    def test_sample_is_seeded_and_stratified(self) -> None:
        y = np.repeat([0, 1], [900, 100])
        x = np.random.default_rng(0).normal(size=(1000, 5)).astype(np.float32)
        first, again, other = (project(x, y, points=100, seed=seed) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first.points, again.points)
        assert np.bincount(y[first.rows]).tolist() == [90, 10]
        assert (first.rows != other.rows).any()

    def test_nothing_to_spread(self) -> None:
        y = np.zeros(4, np.int64)
        assert (project(np.ones((4, 3)), y).points == 0).all()
        assert (project(np.arange(4.0)[:, None], y).points[:, 1] == 0).all()
        assert project(np.ones((1, 3)), y[:1]).points.shape == (1, 2)

    def test_bad_input(self) -> None:
        with pytest.raises(DiptychError, match="for 3 labels"):
            project(np.ones((4, 3)), np.zeros(3, np.int64))
        with pytest.raises(DiptychError, match="NaN"):
            project(np.full((4, 3), np.nan), np.zeros(4, np.int64))


def test_scores_of_one_representation_compare_with_themselves() -> None:
    (score,) = probe_scores(*(data := clouds()), num_classes=2, seeds=(0, 1), resamples=200)
    assert isinstance(score, ProbeScore)
    assert compare(data[3], score.predictions, score.predictions).mcnemar == 1.0
