"""A probing run: read sets, encode them with every model, train probes, compare, and put it all into a report."""

import datetime
import itertools
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import tqdm
from numpy.typing import NDArray

from pretrain import __version__
from pretrain.distributed import Ranks
from pretrain.errors import DiptychError
from probes.arguments import Settings
from probes.encoding.encode import Encoded, encode
from probes.encoding.pairs import read_pairs
from probes.encoding.probed_model import ProbedModel, open_model
from probes.probing.controls import majority, tfidf
from probes.probing.geometry import anisotropy, isotropy, linear_cka_matrix, pair_scores, rankme
from probes.probing.projection import project
from probes.probing.sampling import curve_sizes
from probes.probing.scores import ProbeScore, probe_scores
from probes.probing.statistics import compare, confusion, holm
from probes.reporting import write_projector
from probes.results import Comparison, Geometry, ModelFacts, Predictions, Report, Score, SetFacts, Similarity, Wrong
from probes.sets import LabelledSet, find_overlaps, load_set

GEOMETRY_TEXTS = 2000
"""Texts, or pairs, that geometry and CKA look at, at most."""

WRONG = 12
"""Wrong examples that the report shows of a system."""

MOST_PAIRED = 6
"""Up to so many models are all compared with each other; more only with the first."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Chosen:
    """The representation of a set that cross-validation chose for a system and a pooling; of a control, its only one."""

    system: str
    pooling: str | None
    layer: int | None
    probe: ProbeScore


class ProbingRun:
    """Models, sets and what the probes found so far.

    Args:
        settings: From the command line.
        ranks: All of them encode, and share the probes.
        command: That makes the report again.
    """

    def __init__(self, settings: Settings, ranks: Ranks, command: str) -> None:
        self.settings, self.ranks, self.command = settings, ranks, command
        self.problems: list[str] = []
        self.sets: list[LabelledSet] = []
        self.models: list[ModelFacts] = []
        self.encoded: dict[tuple[str, str], Encoded] = {}
        self.pairs: tuple[tuple[str, ...], tuple[str, ...]] | None = None
        self.scores: list[Score] = []
        self.chosen: dict[str, list[_Chosen]] = {}

    def run(self) -> Report:
        """Does everything. Collective: every rank returns the same report.

        Raises:
            DiptychError: No set could be read, or no model be encoded with.
        """
        self._read_sets()
        self._encode()
        for labelled in self.sets:
            self._probe(labelled)
        return self._report()

    def _try(self, action: Callable[[], T]) -> T | None:
        """An action's result; a problem of it is noted, and the rest goes on. Collective."""
        try:
            return self.ranks.agree(action)
        except DiptychError as error:
            self.problems.append(str(error))
            self._say(f"problem: {error}")
            return None

    def _say(self, text: str) -> None:
        if self.ranks.is_main:
            tqdm.tqdm.write(text)

    def _read_sets(self) -> None:
        for spec in self.settings.sets:
            found = self._try(lambda spec=spec: load_set(spec, self.settings.options))  # type: ignore[misc]
            if found is None:
                continue
            if any(other.name == found.name for other in self.sets):
                self.problems.append(f"{spec}: a second set called {found.name!r}; name it, as in NAME={spec}")
            else:
                self.sets.append(found)
        pairs = self.settings.pairs
        if pairs is not None:
            fields = self.settings.pair_fields
            self.pairs = self._try(lambda: read_pairs(pairs, fields, GEOMETRY_TEXTS))
        if not self.sets:
            raise DiptychError("no set could be read: " + "; ".join(self.problems))

    def _encode(self) -> None:
        """Encodes every set with every model, one model in memory at a time."""
        twins: set[str] = set()
        for name, path in self.settings.models.items():
            model = self._try(lambda path=path: self._open(path, random=False))  # type: ignore[misc]
            if model is None:
                continue
            self._encode_with(model, name, None)
            del model
            if not self.settings.random_twins:
                continue
            twin = self._try(lambda path=path: self._open(path, random=True))  # type: ignore[misc]
            if twin is not None and twin.fingerprint not in twins:
                twins.add(twin.fingerprint)
                self._encode_with(twin, f"{name} (random weights)", name)
        if not self.encoded:
            raise DiptychError("no model could be probed: " + "; ".join(self.problems))

    def _open(self, path: str, *, random: bool) -> ProbedModel:
        settings = self.settings
        return open_model(
            path,
            random=random,
            dtype=settings.dtype,  # type: ignore[arg-type]
            device=self.ranks.device,
            trust_remote_code=settings.trust_remote_code,
        )

    def _encode_with(self, model: ProbedModel, name: str, twin_of: str | None) -> None:
        poolings = [pooling for pooling in self.settings.poolings if pooling != "pred" or model.predictors]
        if len(poolings) < len(self.settings.poolings):
            self._say(f"note: {name} was not trained with [PRED] tokens: without the pooling pred")
        texts = {labelled.name: [*labelled.train.texts, *labelled.test.texts] for labelled in self.sets}
        if self.pairs is not None:
            texts[_PAIRS] = [*self.pairs[0], *self.pairs[1]]
        for place, wanted in texts.items() if poolings else ():
            try:  # which is collective by itself
                encoded = encode(
                    replace(model, name=name),
                    wanted,
                    poolings=poolings,
                    batch_tokens=self.settings.batch_tokens,
                    max_tokens=self.settings.max_tokens,
                    cache=self.settings.cache,
                    ranks=self.ranks,
                )
            except DiptychError as error:
                self.problems.append(f"{place}: {error}")
                self._say(f"problem: {place}: {error}")
                continue
            self.encoded[name, place] = encoded
            for note in encoded.notes:
                self._say(f"note: {note}")
        if any(key[0] == name for key in self.encoded):
            self.models.append(model.facts(name, twin_of))

    def _systems(self, place: str) -> list[tuple[ModelFacts, Encoded]]:
        return [
            (facts, self.encoded[facts.name, place]) for facts in self.models if (facts.name, place) in self.encoded
        ]

    def _probe(self, labelled: LabelledSet) -> None:
        """All probes of a set: every layer with one seed, then what was chosen with all seeds, sizes and controls."""
        systems = self._systems(labelled.name)
        tasks = [
            (facts.name, pooling, layer)
            for facts, encoded in systems
            for pooling in encoded.poolings
            for layer in range(encoded.layers)
        ]
        encoded = {facts.name: found for facts, found in systems}

        def fit(name: str, pooling: str, layer: int, **options: Any) -> tuple[ProbeScore, ...]:
            states, place = encoded[name].get(layer, pooling), f"{labelled.name}, {name}, layer {layer}, {pooling}"
            cut, train, test = len(labelled.train), labelled.train, labelled.test
            return probe_scores(
                states[:cut],
                train.labels,
                states[cut:],
                test.labels,
                num_classes=len(labelled.label_names),
                place=place,
                **options,
            )

        swept = self._shared(labelled.name, tasks, lambda task: fit(*task)[-1])
        best: dict[tuple[str, str], tuple[int, ProbeScore]] = {}
        for (name, pooling, layer), probe in zip(tasks, swept, strict=True):
            if probe is None:
                continue
            known = best.get((name, pooling))
            if known is None or (probe.cv_accuracy or 0) >= (known[1].cv_accuracy or 0):
                best[name, pooling] = layer, probe

        sizes = tuple(size for size in self.settings.sizes or curve_sizes(len(labelled.train)))
        seeds = range(self.settings.seeds)
        again = [(name, pooling, layer, probe) for (name, pooling), (layer, probe) in best.items()]

        def deeper(task: tuple[str, str, int, ProbeScore]) -> tuple[tuple[ProbeScore, ...], ProbeScore]:
            name, pooling, layer, probe = task
            shuffled = fit(name, pooling, layer, seeds=seeds, shuffled=True, strength=probe.strengths[0])
            return fit(name, pooling, layer, seeds=seeds, sizes=(*sizes, len(labelled.train))), shuffled[-1]

        found = self._shared(f"{labelled.name}, chosen layers", again, deeper)
        chosen = [
            _Chosen(name, pooling, layer, replace(curve[0][-1], cv_accuracy=probe.cv_accuracy))
            for (name, pooling, layer, probe), curve in zip(again, found, strict=True)
            if curve is not None
        ]
        deep = {(item.system, item.pooling, item.layer): item.probe for item in chosen}
        for task, sweep in zip(tasks, swept, strict=True):
            if sweep is not None:
                name, pooling, layer = task
                self.scores.append(deep.get(task, sweep).score(labelled.name, name, layer, pooling))
        for (name, pooling, layer, _), curve in zip(again, found, strict=True):
            for probe in (*curve[0][:-1], curve[1]) if curve is not None else ():
                self.scores.append(probe.score(labelled.name, name, layer, pooling))
        self.chosen[labelled.name] = [*chosen, *self._controls(labelled, sizes, seeds)]

    def _controls(self, labelled: LabelledSet, sizes: Sequence[int], seeds: Sequence[int]) -> list[_Chosen]:
        train, test, classes = labelled.train, labelled.test, len(labelled.label_names)
        most = majority(train.labels, test.labels, classes)
        self.scores.append(most.score(labelled.name, "majority"))
        chosen = [_Chosen("majority", None, None, most)]

        def words() -> tuple[ProbeScore, ...]:
            return tfidf(
                train.texts,
                train.labels,
                test.texts,
                test.labels,
                num_classes=classes,
                sizes=(*sizes, len(train)),
                seeds=seeds,
                place=f"{labelled.name}, tfidf",
            )

        curve = self._try(lambda: self.ranks.on_main(words))
        for probe in curve or ():
            self.scores.append(probe.score(labelled.name, "tfidf"))
        return [*chosen, _Chosen("tfidf", None, None, curve[-1])] if curve else chosen

    def _shared(self, title: str, tasks: Sequence[Any], work: Callable[[Any], T]) -> list[T | None]:
        """Work on every task, shared by the ranks; None where it failed, which is noted. Collective."""
        own: list[tuple[int, T | None, str | None]] = []
        hidden = None if self.ranks.is_main else True  # None: hidden where the output is no terminal
        mine = range(self.ranks.rank, len(tasks), self.ranks.world_size)
        for number in tqdm.tqdm(mine, desc=title, unit="probe", disable=hidden):
            try:
                own.append((number, work(tasks[number]), None))
            except DiptychError as error:
                own.append((number, None, str(error)))
        results: list[T | None] = [None] * len(tasks)
        for number, result, problem in sorted(itertools.chain(*self.ranks.gather(own)), key=lambda item: item[0]):
            results[number] = result
            if problem is not None:
                self.problems.append(problem)
                self._say(f"problem: {problem}")
        return results

    def _comparisons(self) -> Iterator[Comparison]:
        """Pairs of models, and each model with its random twin and with TF-IDF; adjusted by the caller."""
        trained = [facts.name for facts in self.models if facts.random_twin_of is None]
        twins = {facts.random_twin_of: facts.name for facts in self.models if facts.random_twin_of}
        pairs = list(itertools.combinations(trained, 2))
        if len(trained) > MOST_PAIRED:
            pairs = [pair for pair in pairs if pair[0] == trained[0]]
        pairs += [(name, twins[name]) for name in trained if name in twins]
        pairs += [(name, "tfidf") for name in trained]
        for labelled in self.sets:
            found = {(item.system, item.pooling): item for item in self.chosen.get(labelled.name, ())}
            for (first, second), pooling in itertools.product(pairs, self.settings.poolings):
                one, other = found.get((first, pooling)), found.get((second, pooling if second != "tfidf" else None))
                if one is None or other is None:
                    continue
                test = compare(labelled.test.labels, one.probe.predictions, other.probe.predictions)
                yield Comparison(
                    labelled.name,
                    first,
                    second,
                    one.layer,
                    other.layer,
                    pooling,
                    test.difference,
                    test.mcnemar,
                    test.mcnemar,
                    False,
                )

    def _geometry(self) -> Iterator[Geometry]:
        for labelled in self.sets:
            for facts, encoded in self._systems(labelled.name):
                for pooling, layer in itertools.product(encoded.poolings, range(encoded.layers)):
                    states = encoded.get(layer, pooling)[len(labelled.train) :][:GEOMETRY_TEXTS]
                    yield Geometry(labelled.name, facts.name, layer, pooling, *_shape(states))
        if self.pairs is None:
            return
        count, title = len(self.pairs[0]), str(self.settings.pairs and self.settings.pairs.name)
        for facts, encoded in self._systems(_PAIRS):
            for pooling, layer in itertools.product(encoded.poolings, range(encoded.layers)):
                states = encoded.get(layer, pooling)
                scores = pair_scores(states[:count], states[count:])
                yield Geometry(title, facts.name, layer, pooling, *_shape(states), *asdict(scores).values())

    def _similarities(self) -> Iterator[Similarity]:
        """Between all models, on the test texts of the first set that all of them have encoded."""
        place = next((item for item in self.sets if len(self._systems(item.name)) == len(self.models)), None)
        if place is None or len(place.test) < 4:
            return
        systems = self._systems(place.name)[: MOST_PAIRED + 1]
        for pooling in self.settings.poolings:
            layers = {
                facts.name: [
                    encoded.get(layer, pooling)[len(place.train) :][:GEOMETRY_TEXTS] for layer in range(encoded.layers)
                ]
                for facts, encoded in systems
                if pooling in encoded.poolings
            }
            for first, second in itertools.combinations_with_replacement(layers, 2):
                values = linear_cka_matrix(layers[first], layers[second])
                yield Similarity(place.name, first, second, pooling, tuple(tuple(map(float, row)) for row in values))

    def _predictions(self) -> Iterator[Predictions]:
        """Of each system, at its best pooling."""
        for labelled in self.sets:
            best: dict[str, _Chosen] = {}
            for item in self.chosen.get(labelled.name, ()):
                known = best.get(item.system)
                if known is None or (item.probe.cv_accuracy or 0) > (known.probe.cv_accuracy or 0):
                    best[item.system] = item
            encoded = {facts.name: found for facts, found in self._systems(labelled.name)}
            for system, item in best.items():
                gold, said = labelled.test.labels, item.probe.predictions[0]
                table = confusion(gold, item.probe.predictions[:1], len(labelled.label_names))
                points: tuple[tuple[float, float], ...] = ()
                shown: tuple[int, ...] = ()
                if item.layer is not None and item.pooling is not None:
                    states = encoded[system].get(item.layer, item.pooling)[len(labelled.train) :]
                    picture = project(states, gold)
                    points = tuple((round(float(x), 4), round(float(y), 4)) for x, y in picture.points)
                    shown = tuple(gold[picture.rows].tolist())
                yield Predictions(
                    labelled.name,
                    system,
                    item.layer,
                    item.pooling,
                    tuple(tuple(row) for row in table.tolist()),
                    _wrong(labelled.test.texts, gold, said, item.probe.probabilities[0]),
                    points,
                    shown,
                )

    def write_projector(self, folder: Path) -> None:
        """Stores the test texts of every set for TensorBoard's Projector, as each trained model reads them best."""
        trained = {facts.name for facts in self.models if facts.random_twin_of is None}
        for labelled in self.sets:
            for item in self.chosen.get(labelled.name, ()):
                if item.system not in trained or item.layer is None or item.pooling is None:
                    continue
                states = self.encoded[item.system, labelled.name].get(item.layer, item.pooling)[len(labelled.train) :]
                write_projector(
                    folder,
                    f"{labelled.name}, {item.system}, {item.pooling}, layer {item.layer}",
                    states[:GEOMETRY_TEXTS],
                    [labelled.label_names[label] for label in labelled.test.labels[:GEOMETRY_TEXTS]],
                    labelled.test.texts[:GEOMETRY_TEXTS],
                )

    def _report(self) -> Report:
        comparisons = list(self._comparisons())
        adjusted = holm([item.mcnemar for item in comparisons]) if comparisons else ()
        overlaps = find_overlaps(self.sets)
        settings = {name: value for name, value in asdict(self.settings).items() if name != "title"}
        return Report(
            title=self.settings.title,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=self.command,
            settings={name: value if _is_json(value) else _plain(value) for name, value in settings.items()},
            versions={
                "diptych": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy")},
            },
            models=tuple(self.models),
            sets=tuple(
                SetFacts(
                    name=item.name,
                    title=item.title,
                    source=item.source,
                    label_names=item.label_names,
                    num_train=len(item.train),
                    num_test=len(item.test),
                    test_counts=item.test.counts(len(item.label_names)),
                    control=item.control,
                    overlaps=overlaps[item.name],
                    notes=item.notes,
                    fingerprint=item.fingerprint,
                )
                for item in self.sets
            ),
            scores=tuple(self.scores),
            comparisons=tuple(
                replace(item, adjusted=value, different=value < 0.05)
                for item, value in zip(comparisons, adjusted, strict=True)
            ),
            geometry=tuple(self._geometry()),
            similarities=tuple(self._similarities()),
            predictions=tuple(self._predictions()),
            truncated={
                facts.name: {
                    labelled.name: self.encoded[facts.name, labelled.name].truncated
                    for labelled in self.sets
                    if (facts.name, labelled.name) in self.encoded
                }
                for facts in self.models
            },
            problems=tuple(self.problems),
        )


_PAIRS = "pairs of views"
"""What the texts of ``--pairs`` are called among the encoded ones; no set can be called so."""


def _shape(states: NDArray[np.float32]) -> tuple[float, float, float]:
    return rankme(states), isotropy(states), anisotropy(states)


def _wrong(
    texts: Sequence[str], gold: NDArray[np.int64], said: NDArray[np.int64], probabilities: NDArray[np.float32]
) -> tuple[Wrong, ...]:
    rows = np.flatnonzero(gold != said)
    rows = rows[np.argsort(-probabilities[rows], kind="stable")][:WRONG]
    return tuple(
        Wrong(texts[row][:400], int(gold[row]), int(said[row]), round(float(probabilities[row]), 4)) for row in rows
    )


def _is_json(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _plain(value: Any) -> Any:
    """The same with lists for tuples and text for paths."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if _is_json(value) else str(value)
