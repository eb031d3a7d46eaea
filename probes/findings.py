"""What follows from the probes: comparisons, geometry of representations, and predictions for examples."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretrain.probing.sampling import stratified_order
from probes.encoding.encode import Encoded
from probes.probing.geometry import anisotropy, isotropy, linear_cka_matrix, pair_scores, rankme
from probes.probing.projection import project
from probes.probing.scores import ProbeScore
from probes.probing.statistics import PairedTest, compare, confusion, holm
from probes.progress import Progress
from probes.results import Comparison, Geometry, ModelFacts, Predictions, Similarity, Wrong, preference
from probes.sets import LabelledSet

LOOKED_AT = 2000
"""Largest number of texts, or pairs, for geometry and the Projector."""

_ALIKE = 1000
"""Largest number of texts for CKA."""

_WRONG = 12
"""Wrong examples that are kept for each system."""

_ALL_PAIRED = 6
"""Up to this many models are all compared with each other; of more, only the first is compared with the others."""


@dataclass(frozen=True)
class Chosen:
    """A system's representation of a set for one pooling, at the layer that cross-validation chose.

    Attributes:
        system: Name of a model or control.
        pooling: None for a control.
        layer: None for a control.
        probe: Trained on all examples, with all seeds.
    """

    system: str
    pooling: str | None
    layer: int | None
    probe: ProbeScore


@dataclass
class Measured:
    """What a run has encoded and measured so far.

    Attributes:
        sets: Labelled sets.
        models: Models with which at least one set was encoded.
        encoded: Training and then test texts, by model and set; of the pairs, first and then second views.
        chosen: By set.
        equal_input: By set and model the TF-IDF words of the same input.
        notes: What was done differently from what was asked, one sentence each.
    """

    sets: list[LabelledSet] = field(default_factory=list)
    models: list[ModelFacts] = field(default_factory=list)
    encoded: dict[tuple[str, str], Encoded] = field(default_factory=dict)
    chosen: dict[str, list[Chosen]] = field(default_factory=dict)
    equal_input: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def systems(self, set_name: str) -> list[tuple[ModelFacts, Encoded]]:
        """Models with their representations of a set."""
        return [(facts, self.encoded[key]) for facts in self.models if (key := (facts.name, set_name)) in self.encoded]

    def test_states(self, labelled: LabelledSet, system: str, layer: int, pooling: str) -> NDArray[np.float32]:
        """A representation of a set's test texts, [num_test, width]."""
        return self.encoded[system, labelled.name].get(layer, pooling)[len(labelled.train) :]

    def best(self, set_name: str) -> dict[str, Chosen]:
        """For each system of a set, the representation that cross-validation chose among all poolings."""
        best: dict[str, Chosen] = {}
        for item in self.chosen.get(set_name, ()):
            if item.system not in best or _preference(item) > _preference(best[item.system]):
                best[item.system] = item
        return best


def sample(labelled: LabelledSet, most: int) -> NDArray[np.int64]:
    """Rows of a set's test texts, ascending: a stratified sample, as sets may be sorted by class."""
    return np.sort(stratified_order(labelled.test.labels, 0)[:most])


def comparisons(measured: Measured, poolings: Sequence[str]) -> tuple[Comparison, ...]:
    """Pairs of models, each model with each of its random twins, with TF-IDF and with the largest class.

    TF-IDF is that of the same input, and also that of whole texts where a model did not read these.

    Pairs are compared at each pooling and with each system at the pooling that its cross-validation chose; the largest
    class in the latter way alone. P-values are adjusted for all tests together; a shared test counts once.
    """
    trained = [facts for facts in measured.models if facts.random_twin_of is None]
    names = [facts.name for facts in trained]
    pairs = list(itertools.combinations(names, 2))
    if len(trained) > _ALL_PAIRED:
        measured.notes.append(
            f"of {len(trained)} models only the first, {names[0]}, is compared with each of the others"
        )
        pairs = [pair for pair in pairs if pair[0] == names[0]]
    pairs += [(facts.name, twin) for facts in trained for twin in facts.twins]
    results: list[Comparison] = []
    tests: dict[Any, PairedTest] = {}
    keys = []
    for labelled in measured.sets:
        known = {(item.system, item.pooling): item for item in measured.chosen.get(labelled.name, ())}
        best = measured.best(labelled.name)
        equal = measured.equal_input.get(labelled.name, {})
        tested = [*pairs, *((name, words) for name in names for words in {equal.get(name, "tfidf"): 0, "tfidf": 0})]
        requests: list[tuple[str, str, str | None]] = [(*pair, pooling) for pair in tested for pooling in poolings]
        requests += [(*pair, None) for pair in (*tested, *((name, "majority") for name in names))]
        for first, second, pooling in requests:
            if pooling is None:
                one, other = best.get(first), best.get(second)
            else:
                one, other = known.get((first, pooling)), known.get((second, pooling)) or known.get((second, None))
            if one is None or other is None:
                continue
            key = (labelled.name, first, second, one.pooling, other.pooling)
            if key not in tests:
                tests[key] = compare(
                    labelled.test.labels,
                    one.probe.predictions,
                    other.probe.predictions,
                    clusters=labelled.test.copies.clusters,
                )
            keys.append(key)
            results.append(
                Comparison(
                    set=labelled.name,
                    first=first,
                    second=second,
                    first_layer=one.layer,
                    second_layer=other.layer,
                    pooling=pooling,
                    difference=tests[key].difference,
                    mcnemar=tests[key].mcnemar,
                    adjusted=1.0,
                    different=False,
                )
            )
    adjusted = dict(zip(tests, holm([test.mcnemar for test in tests.values()]) if tests else (), strict=True))
    return tuple(
        replace(item, adjusted=adjusted[key], different=adjusted[key] < 0.05)
        for item, key in zip(results, keys, strict=True)
    )


def geometry(measured: Measured, pairs: str | None) -> Iterator[Geometry]:
    """Of every set's test texts, and of pairs of views.

    Args:
        measured: What was encoded.
        pairs: The name of the pairs; None: there are none.
    """
    for labelled in measured.sets:
        rows = sample(labelled, LOOKED_AT)
        for facts, encoded in measured.systems(labelled.name):
            for pooling, layer in itertools.product(encoded.poolings, range(encoded.layers)):
                states = measured.test_states(labelled, facts.name, layer, pooling)[rows]
                yield Geometry(labelled.name, facts.name, layer, pooling, *_shape(states))
    for facts, encoded in measured.systems(pairs) if pairs is not None else ():
        for pooling, layer in itertools.product(encoded.poolings, range(encoded.layers)):
            states = encoded.get(layer, pooling)
            first, second = np.split(states, 2)
            scores = asdict(pair_scores(first, second))
            yield Geometry(str(pairs), facts.name, layer, pooling, *_shape(states), **scores)


def similarities(measured: Measured, poolings: Sequence[str]) -> Iterator[Similarity]:
    """CKA between all models, on the test texts of the first set that all of them have encoded.

    Of several random twins of an architecture only the first takes part.
    """
    common = next((item for item in measured.sets if len(measured.systems(item.name)) == len(measured.models)), None)
    if common is None or len(common.test) < 4:
        return
    rows = sample(common, _ALIKE)
    systems = [item for item in measured.systems(common.name) if not item[0].random_seed]
    if len(systems) > _ALL_PAIRED + 1:
        measured.notes.append(
            f"CKA is between the first {_ALL_PAIRED + 1} of {len(systems)} models and random twins alone"
        )
    for pooling in poolings:
        layers = {
            facts.name: [
                measured.test_states(common, facts.name, layer, pooling)[rows] for layer in range(encoded.layers)
            ]
            for facts, encoded in systems[: _ALL_PAIRED + 1]
            if pooling in encoded.poolings
        }
        pairs = list(itertools.combinations_with_replacement(layers, 2))
        with Progress(f"CKA, {pooling}", len(pairs), "pair") as progress:
            for first, second in pairs:
                values = linear_cka_matrix(layers[first], layers[second])
                yield Similarity(common.name, first, second, pooling, tuple(tuple(map(float, row)) for row in values))
                progress.advance()


def predictions(measured: Measured) -> Iterator[Predictions]:
    """Predictions of every system for the test examples, at the pooling that cross-validation prefers."""
    for labelled in measured.sets:
        for system, item in measured.best(labelled.name).items():
            yield _predictions(measured, labelled, system, item)


def _preference(item: Chosen) -> tuple[float, int, str]:
    return preference(item.probe.cv_accuracy, item.layer, item.pooling)


def _predictions(measured: Measured, labelled: LabelledSet, system: str, item: Chosen) -> Predictions:
    gold, said, sure = labelled.test.labels, item.probe.predictions[0], item.probe.probabilities[0]
    table = confusion(gold, said, len(labelled.label_names))
    points: Mapping[int, tuple[float, float]] = {}
    if item.layer is not None and item.pooling is not None:
        picture = project(measured.test_states(labelled, system, item.layer, item.pooling), gold)
        rounded = [(round(x, 4), round(y, 4)) for x, y in picture.points.tolist()]
        points = dict(zip(picture.rows.tolist(), rounded, strict=True))
    rows = np.flatnonzero(gold != said)
    rows = rows[np.argsort(-sure[rows], kind="stable")][:_WRONG]
    return Predictions(
        set=labelled.name,
        system=system,
        layer=item.layer,
        pooling=item.pooling,
        confusion=tuple(tuple(row) for row in table.tolist()),
        wrong=tuple(
            Wrong(labelled.test.texts[row][:400], int(gold[row]), int(said[row]), round(float(sure[row]), 4))
            for row in rows.tolist()
        ),
        points=tuple(points.values()),
        point_labels=tuple(int(gold[row]) for row in points),
    )


def _shape(states: NDArray[np.float32]) -> tuple[float, float, float]:
    return rankme(states), isotropy(states), anisotropy(states)
