"""What a representation has to beat: the majority class and TF-IDF words with the same classifier.

The other controls are probes too: the same architecture with random weights is another representation, and shuffled
labels are ``probe_scores(…, shuffled=True)``.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from pretrain.probing.classifier import FOLDS, Labels, fit_probe
from pretrain.probing.copies import Copies
from pretrain.probing.sampling import subset
from pretrain.runtime.errors import DiptychError
from probes.probing.scores import ProbeScore, summed, used_sizes
from probes.probing.statistics import RESAMPLES, score_predictions

# As many as for probes, in another range: rows of length 1 are far smaller than standardised ones.
WORD_STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


def majority(
    train_y: Labels,
    test_y: Labels,
    num_classes: int,
    test_clusters: Labels | None = None,
    resamples: int = RESAMPLES,
) -> ProbeScore:
    """Always the most frequent training label, the lowest among equals; its probability is its share of train.

    Raises:
        DiptychError: There are no training labels.
    """
    if not len(train_y):
        raise DiptychError("majority: train: no rows; give labelled examples")
    counts = np.bincount(train_y, minlength=num_classes)
    predictions = np.full((1, len(test_y)), counts.argmax(), np.int64)
    tested = score_predictions(test_y, predictions, num_classes, clusters=test_clusters, resamples=resamples)
    return ProbeScore(
        train_size=len(train_y),
        shuffled=False,
        cv_accuracy=None,
        accuracy=tested.accuracy,
        macro_f1=tested.macro_f1,
        strengths=(),
        converged=True,
        predictions=predictions,
        probabilities=np.full(predictions.shape, counts.max() / len(train_y), np.float32),
    )


def tfidf(
    train_texts: Sequence[str],
    train_y: Labels,
    test_texts: Sequence[str],
    test_y: Labels,
    *,
    num_classes: int,
    sizes: Sequence[int] = (),
    seeds: Sequence[int] = (0,),
    strengths: Sequence[float] = WORD_STRENGTHS,
    folds: int = FOLDS,
    train_copies: Copies | None = None,
    test_clusters: Labels | None = None,
    resamples: int = RESAMPLES,
    place: str = "tfidf",
) -> tuple[ProbeScore, ...]:
    """TF-IDF of words with the classifier, the search for its strength and the subsets of the probes.

    1-2-grams of lower-cased words of two letters or more that occur in at least two training texts (in one below 1,000
    texts), 1 + log of the term frequency, rows of length 1, not standardised, as that would make them dense. Vocabulary
    and document frequencies are those of the training subset; the folds share them, as no label enters there.

    Args:
        train_texts: [num_train].
        train_y: Labels [num_train].
        test_texts: [num_test].
        test_y: Labels [num_test].
        num_classes: Labels are 0 … num_classes − 1.
        sizes: As in :func:`~probes.probing.scores.probe_scores`, likewise the rest.
        seeds: One per subset.
        strengths: To choose from.
        folds: Of cross-validation.
        train_copies: As in ``probe_scores``, likewise ``test_clusters``.
        test_clusters: Test rows that count as one [num_test].
        resamples: Of the bootstrap.
        place: What the data are, for error messages.

    Returns:
        One score per size, ascending.

    Raises:
        DiptychError: As ``probe_scores``; or the training texts hold no words.
    """
    scores = []
    for size in used_sizes(sizes, len(train_y), place):
        outcomes = []
        for seed in seeds:
            rows = subset(train_y, size, seed)
            vectors = TfidfVectorizer(
                sublinear_tf=True, ngram_range=(1, 2), min_df=2 if size >= 1000 else 1, dtype=np.float32
            )
            try:
                train_x = vectors.fit_transform(train_texts[row] for row in rows)
            except ValueError as error:
                raise DiptychError(f"{place}: train texts hold no words: {error}") from None
            outcomes.append(
                fit_probe(
                    train_x,
                    train_y[rows],
                    vectors.transform(test_texts),
                    test_y,
                    num_classes=num_classes,
                    seed=seed,
                    strengths=strengths,
                    folds=folds,
                    clusters=train_copies.clusters[rows] if train_copies is not None else None,
                    place=place,
                )
            )
        scores.append(
            summed(
                outcomes,
                test_y,
                num_classes,
                size,
                test_clusters=test_clusters,
                resamples=resamples,
                place=place,
            )
        )
    return tuple(scores)
