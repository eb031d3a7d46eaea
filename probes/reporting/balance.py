"""Whether the classes of a set are as frequent in test as in train."""

import numpy as np
from scipy.stats import chi2_contingency  # type: ignore[import-untyped]

from probes.reporting.phrases import percent
from probes.results import SetFacts

SHIFT = 0.05
"""Share of the test examples that would need another class for the classes to be as frequent as in train."""

_LEVEL = 0.001


def class_shares(facts: SetFacts, label: int) -> tuple[float | None, float]:
    """The share of a class in train (None: not known) and in test."""
    train = facts.train_counts[label] / facts.num_train if facts.train_counts and facts.num_train else None
    return train, facts.test_counts[label] / facts.num_test if facts.num_test else 0.0


def shifted(facts: SetFacts) -> bool:
    """Whether the classes are markedly more or less frequent in test: by ``SHIFT`` in all, and not by chance."""
    if not facts.train_counts:
        return False
    counts = np.array([facts.train_counts, facts.test_counts], np.float64)
    counts = counts[:, counts.sum(axis=0) > 0]
    train, test = counts / counts.sum(axis=1, keepdims=True)
    if counts.shape[1] < 2 or np.abs(train - test).sum() / 2 < SHIFT:
        return False
    return bool(chi2_contingency(counts, correction=False).pvalue < _LEVEL)


def shift_sentence(facts: SetFacts) -> str:
    """Names the class whose share differs most."""
    shares = [class_shares(facts, label) for label in range(len(facts.label_names))]
    label = max(range(len(shares)), key=lambda one: abs(shares[one][1] - (shares[one][0] or 0.0)))
    train, test = shares[label]
    return (
        f"Classes shift between train and test on {facts.title}: {facts.label_names[label]} is "
        f"{percent(train or 0.0)} % of train and {percent(test)} % of test. A probe learns the shares of train."
    )
