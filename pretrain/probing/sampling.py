"""Which training examples a probe sees: nested stratified subsets for learning curves, and shuffled labels."""

import numpy as np
from numpy.typing import NDArray

from pretrain.probing.copies import Copies
from pretrain.runtime.errors import DiptychError


def stratified_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """An order of the rows every prefix of which is a stratified sample, so that smaller samples lie in larger ones.

    The i-th example of a class with n examples, in random order, comes at the share i / n: a prefix holds every class
    in proportion, rounded up, hence one example of each class before a second of any.

    Args:
        labels: [rows].
        seed: Of the order within classes and of equal shares.

    Returns:
        Row numbers [rows].
    """
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    shares = np.concatenate([np.arange(count) / count for count in counts]) if len(labels) else np.zeros(0)
    rows: NDArray[np.int64] = order[np.lexsort((generator.random(len(order)), shares))].astype(np.int64)
    return rows


def subset(labels: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Row numbers of a stratified subset [size], ascending; with one seed, smaller subsets lie inside larger ones.

    Raises:
        DiptychError: There are fewer rows than ``size``, or ``size`` is not positive.
    """
    if not 0 < size <= len(labels):
        raise DiptychError(f"train size {size}: must be from 1 to the {len(labels)} training examples")
    return np.sort(stratified_order(labels, seed)[:size])


def curve_sizes(num_train: int, smallest: int = 100) -> tuple[int, ...]:
    """Training sizes of a learning curve: 100, 300, 1000, 3000, … and all examples."""
    sizes, step = [], smallest
    while step < num_train:
        sizes.append(step)
        step = step * 3 if len(sizes) % 2 else smallest * 10 ** (len(sizes) // 2)
    return (*sizes, num_train)


def shuffled_labels(labels: NDArray[np.int64], seed: int, copies: Copies | None = None) -> NDArray[np.int64]:
    """The same labels in random order: as many texts of each class, none of their meaning.

    This is the control task of Hewitt & Liang (2019) for sentences. Theirs gives every word type a random label, which
    a probe can only memorise; here every text has a random label of its own. The probe is then scored on true test
    labels: accuracy with true labels minus this one is its selectivity (an interval:
    :func:`probes.probing.statistics.compare`). As test labels stay true, the control can do no better than chance
    there; what the probe memorises shows in its training accuracy.

    Args:
        labels: [rows].
        seed: Of the order.
        copies: Which rows belong together, if any do. All copies of a text get one label, that of the first row of
            another text. A cluster gets the labels of another cluster, so that groups which have one label each still
            have one; the labels of a small cluster are repeated in a larger one.
    """
    # Another stream than the folds and subsets of the same seed.
    generator = np.random.default_rng([seed, 1])
    if copies is None or copies.num_clusters == len(labels):
        return generator.permutation(labels)
    _, firsts, text_of = np.unique(copies.texts, return_index=True, return_inverse=True)
    _, cluster_of = np.unique(copies.clusters[firsts], return_inverse=True)
    order = np.argsort(cluster_of, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(cluster_of))[:-1])  # texts of each cluster
    of_texts = np.empty(len(firsts), np.int64)
    for texts, other in zip(members, generator.permutation(len(members)).tolist(), strict=True):
        theirs = generator.permutation(labels[firsts[members[other]]])
        of_texts[texts] = np.resize(theirs, len(texts))
    return of_texts[text_of]
