"""A probing run: read sets, encode them with every model, train probes, and put everything into a report."""

import datetime
import itertools
import platform
import re
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
import tqdm

from pretrain import __version__
from pretrain.distributed import Ranks
from pretrain.errors import DiptychError
from pretrain.probing.sampling import curve_sizes
from probes.arguments import Settings, random_name
from probes.encoding.encode import encode
from probes.encoding.pairs import read_pairs
from probes.encoding.probed_model import ProbedModel, open_model
from probes.findings import LOOKED_AT, Chosen, Found, comparisons, geometry, predictions, sample, similarities
from probes.probing.controls import majority, tfidf
from probes.probing.scores import ProbeScore, probe_scores
from probes.reporting import write_projector
from probes.results import ModelFacts, Report, Score, SetFacts
from probes.sets import REGISTRY, LabelledSet, find_overlaps, load_set

T = TypeVar("T")


class ProbingRun:
    """Models and sets of a run, and what it has found so far.

    Args:
        settings: From the command line.
        ranks: All of them encode, and share the probes.
        command: That makes the report again.
    """

    def __init__(self, settings: Settings, ranks: Ranks, command: str) -> None:
        self.settings, self.ranks, self.command = settings, ranks, command
        self.found = Found()
        self.scores: list[Score] = []
        self.problems: list[str] = []
        self.pairs: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def run(self) -> Report:
        """Does everything. Collective: every rank returns the same report.

        Raises:
            DiptychError: No set could be read, or no model be probed.
        """
        self._read_sets()
        self._encode()
        for labelled in self.found.sets:
            self._probe(labelled)
        return self.ranks.on_main(self._report)

    def _read_sets(self) -> None:
        settings = self.settings
        for spec in settings.sets:
            labelled = self._try(spec, partial(load_set, spec, settings.options))
            if labelled is None:
                continue
            if any(other.name == labelled.name for other in self.found.sets):
                where = re.sub(r"^\w[\w.-]*=", "", spec)
                remedy = "leave it out" if where in (*REGISTRY, "reviews") else f"name it, as in NAME={where}"
                self._problem(f"{spec}: a second set called {labelled.name!r}; {remedy}")
            else:
                self.found.sets.append(labelled)
        if settings.pairs is not None:
            read = partial(read_pairs, settings.pairs, settings.pair_fields, LOOKED_AT)
            self.pairs = self._try(self._pairs_name, read)
        if not self.found.sets:
            raise DiptychError("no set could be read: " + "; ".join(self.problems))

    def _encode(self) -> None:
        """Encodes every set with every model and its random twins, one model in memory at a time."""
        twins: dict[str, tuple[str, ...]] = {}
        for name, path in self.settings.models.items():
            model = self._try(name, partial(self._open, path, None))
            facts = self._encode_with(model, name, None) if model is not None else None
            if model is None or facts is None:
                continue
            place, kind = len(self.found.models), model.kind
            self.found.models.append(facts)
            del model
            if kind not in twins:
                twins[kind] = self._encode_twins(name, path)
            self.found.models[place] = replace(facts, twins=twins[kind])
        if not self.found.models:
            raise DiptychError("no model could be probed: " + "; ".join(self.problems))

    def _encode_twins(self, name: str, path: str) -> tuple[str, ...]:
        """Encodes with the random twins of a model; returns what those are called with which it could be done."""
        names = []
        for seed in range(self.settings.random_seeds):
            model = self._try(random_name(name, seed), partial(self._open, path, seed))
            facts = self._encode_with(model, random_name(name, seed), name) if model is not None else None
            if facts is not None:
                self.found.models.append(facts)
                names.append(facts.name)
        return tuple(names)

    def _open(self, path: str, random_seed: int | None) -> ProbedModel:
        settings = self.settings
        return open_model(
            path,
            random=random_seed is not None,
            seed=random_seed or 0,
            dtype=settings.dtype,
            device=self.ranks.device,
            trust_remote_code=settings.trust_remote_code,
            # Models that differ in [PRED] tokens alone share a twin where these are not looked at.
            predictors=None if "pred" in settings.poolings else 0,
        )

    def _encode_with(self, model: ProbedModel, name: str, twin_of: str | None) -> ModelFacts | None:
        """Encodes every set and the pairs; returns the model's facts, or None if it could encode none."""
        settings = self.settings
        poolings = [pooling for pooling in settings.poolings if pooling != "pred" or model.predictors]
        if not poolings:
            self._problem(f"{name}: was not trained with [PRED] tokens, and no other pooling is asked for")
            return None
        if len(poolings) < len(settings.poolings) and twin_of is None:
            self._note(f"{name} was not trained with [PRED] tokens, so it has no pooling pred")
        texts = {labelled.name: [*labelled.train.texts, *labelled.test.texts] for labelled in self.found.sets}
        if self.pairs is not None:
            texts[self._pairs_name] = [*self.pairs[0], *self.pairs[1]]
        for place, wanted in texts.items():
            try:
                encoded = encode(
                    replace(model, name=name),
                    wanted,
                    poolings=poolings,
                    batch_tokens=settings.batch_tokens,
                    max_tokens=settings.max_tokens,
                    cache=settings.cache,
                    ranks=self.ranks,
                )
            except DiptychError as error:  # on all ranks
                self._problem(f"{place}: {error}")
                continue
            self.found.encoded[name, place] = encoded
            for note in encoded.notes:
                self._say(f"note: {note}")
        return model.facts(name, twin_of) if any(system == name for system, _ in self.found.encoded) else None

    def _probe(self, labelled: LabelledSet) -> None:
        """All probes of a set: every layer with one seed, then the chosen ones with all seeds, sizes and controls."""
        name, num_train, seeds = labelled.name, len(labelled.train), range(self.settings.seeds)
        classes = len(labelled.label_names)
        asked = curve_sizes(num_train) if self.settings.sizes is None else self.settings.sizes
        sizes = (*(size for size in asked if size >= classes), num_train)
        if few := [f"{size:,}" for size in asked if size < classes]:
            self._note(f"{name}: train sizes below its {classes} classes are left out ({', '.join(few)})")
        tasks = [
            (facts.name, pooling, layer)
            for facts, encoded in self.found.systems(name)
            for pooling in encoded.poolings
            for layer in range(encoded.layers)
        ]

        def sweep(task: tuple[str, str, int]) -> ProbeScore:
            return self._scores(labelled, *task)[-1]

        swept = dict(zip(tasks, self._shared(f"{name}: layers", tasks, sweep), strict=True))
        best: dict[tuple[str, str], tuple[str, str, int]] = {}
        for task, probe in swept.items():
            known = best.get(task[:2])
            if probe is not None and (known is None or _validated(probe) >= _validated(swept[known])):
                best[task[:2]] = task
        chosen = list(best.values())

        def deepen(task: tuple[str, str, int]) -> tuple[tuple[ProbeScore, ...], ProbeScore]:
            probe = swept[task]
            assert probe is not None
            shuffled = self._scores(labelled, *task, seeds=seeds, shuffled=True, strength=probe.strengths[0])[-1]
            curve = self._scores(labelled, *task, seeds=seeds, sizes=sizes)
            # Layers are compared by what one seed gave them.
            return (*curve[:-1], replace(curve[-1], cv_accuracy=probe.cv_accuracy)), shuffled

        for task, results in zip(chosen, self._shared(f"{name}: chosen layers", chosen, deepen), strict=True):
            system, pooling, layer = task
            if results is None:  # nothing of this pooling then: another layer would not be the chosen one
                swept |= {other: None for other in swept if other[:2] == task[:2]}
                continue
            curve, shuffled = results
            swept[task] = curve[-1]
            self.found.chosen.setdefault(name, []).append(Chosen(system, pooling, layer, curve[-1]))
            self.scores += [probe.score(name, system, layer, pooling) for probe in (*curve[:-1], shuffled)]
        for (system, pooling, layer), probe in swept.items():
            if probe is not None:
                self.scores.append(probe.score(name, system, layer, pooling))
        self._controls(labelled, sizes, seeds)

    def _scores(
        self, labelled: LabelledSet, system: str, pooling: str, layer: int, **options: Any
    ) -> tuple[ProbeScore, ...]:
        states, cut = self.found.encoded[system, labelled.name].get(layer, pooling), len(labelled.train)
        return probe_scores(
            states[:cut],
            labelled.train.labels,
            states[cut:],
            labelled.test.labels,
            num_classes=len(labelled.label_names),
            place=f"{labelled.name}, {system}, layer {layer}, {pooling}",
            **options,
        )

    def _controls(self, labelled: LabelledSet, sizes: Sequence[int], seeds: Sequence[int]) -> None:
        name, train, test, classes = labelled.name, labelled.train, labelled.test, len(labelled.label_names)

        def words() -> tuple[ProbeScore, ...]:
            return tfidf(
                train.texts,
                train.labels,
                test.texts,
                test.labels,
                num_classes=classes,
                sizes=sizes,
                seeds=seeds,
                place=f"{name}, tfidf",
            )

        own = self._try(f"{name}, tfidf", lambda: words() if self.ranks.is_main else None)
        curves = {
            "majority": (majority(train.labels, test.labels, classes),),
            "tfidf": self.ranks.gather(own)[0] or (),
        }
        for system, curve in curves.items():
            self.scores += [probe.score(name, system) for probe in curve]
            if curve:
                self.found.chosen.setdefault(name, []).append(Chosen(system, None, None, curve[-1]))

    def _shared(self, title: str, tasks: Sequence[Any], work: Callable[[Any], T]) -> list[T | None]:
        """Work on every task, shared by the ranks; None where it failed, which is noted. Collective."""
        own: list[tuple[int, T | None, str | None]] = []
        hidden = None if self.ranks.is_main else True  # None: hidden where the output is no terminal
        mine = range(self.ranks.rank, len(tasks), self.ranks.world_size)
        for number in tqdm.tqdm(mine, desc=title, unit="probe", disable=hidden):
            try:
                what = f"{title}, {', '.join(map(str, tasks[number]))}"
                own.append((number, _explained(what, partial(work, tasks[number])), None))
            except (DiptychError, OSError) as error:
                own.append((number, None, str(error)))
        results: list[T | None] = [None] * len(tasks)
        for number, result, problem in sorted(itertools.chain(*self.ranks.gather(own)), key=lambda item: item[0]):
            results[number] = result
            if problem is not None:
                self._problem(problem)
        return results

    def _try(self, what: str, action: Callable[[], T]) -> T | None:
        """An action's result; if it fails, that is noted and the rest goes on. Collective."""
        try:
            return self.ranks.agree(partial(_explained, what, action))
        except DiptychError as error:
            self._problem(str(error))
            return None

    def _part(self, what: str, make: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        """A part of the report; nothing of it where it fails, for the probes before it took hours."""
        try:
            return _explained(what, lambda: tuple(make()))
        except (DiptychError, OSError) as error:
            self._problem(str(error))
            return ()

    @property
    def _pairs_name(self) -> str:
        """What the pairs are called among the sets."""
        path = self.settings.pairs
        assert path is not None
        return str(path.absolute() if any(labelled.name == str(path) for labelled in self.found.sets) else path)

    def _problem(self, text: str) -> None:
        self.problems.append(text)
        self._say(f"problem: {text}")

    def _note(self, text: str) -> None:
        self.found.notes.append(text)
        self._say(f"note: {text}")

    def _say(self, text: str) -> None:
        if self.ranks.is_main:
            tqdm.tqdm.write(text)

    def write_projector(self, folder: Path) -> None:
        """Stores the test texts of every set for TensorBoard's Projector, as each trained model reads them best."""
        trained = {facts.name for facts in self.found.models if facts.random_twin_of is None}
        for labelled in self.found.sets:
            rows = sample(labelled, LOOKED_AT)
            for item in self.found.chosen.get(labelled.name, ()):
                if item.system not in trained or item.layer is None or item.pooling is None:
                    continue
                states = self.found.test_states(labelled, item.system, item.layer, item.pooling)
                write_projector(
                    folder,
                    f"{labelled.name}, {item.system}, {item.pooling}, layer {item.layer}",
                    states[rows],
                    [labelled.label_names[label] for label in labelled.test.labels[rows]],
                    [labelled.test.texts[row] for row in rows],
                )

    def _report(self) -> Report:
        found, settings = self.found, self.settings
        overlaps = find_overlaps(found.sets)
        pairs = None if self.pairs is None else self._pairs_name
        places = [*(labelled.name for labelled in found.sets), *([pairs] if pairs is not None else [])]
        return Report(
            title=settings.title,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            command=self.command,
            settings={name: _plain(value) for name, value in asdict(settings).items() if name != "title"},
            versions={
                "diptych": __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in ("torch", "transformers", "scikit-learn", "numpy")},
            },
            models=tuple(found.models),
            sets=tuple(_set_facts(item, overlaps[item.name]) for item in found.sets),
            scores=tuple(self.scores),
            comparisons=self._part("comparisons", lambda: comparisons(found, settings.poolings)),
            geometry=self._part("geometry", lambda: geometry(found, pairs)),
            similarities=self._part("CKA", lambda: similarities(found, settings.poolings)),
            predictions=self._part("predictions", lambda: predictions(found)),
            truncated={
                facts.name: {
                    place: found.encoded[facts.name, place].truncated
                    for place in places
                    if (facts.name, place) in found.encoded
                }
                for facts in found.models
            },
            problems=tuple(self.problems),
            notes=tuple(found.notes),  # after everything that adds to them
        )


def _explained(what: str, action: Callable[[], T]) -> T:
    """An action's result.

    Raises:
        DiptychError: It failed, whatever with: other sets and models go on.
        OSError: Of the file system, which ranks look at together.
    """
    try:
        return action()
    except (DiptychError, OSError):
        raise
    except Exception as error:
        expected = isinstance(error, ValueError | MemoryError | torch.OutOfMemoryError)  # of scikit-learn, of a device
        if not expected:
            traceback.print_exc()
        kind = "" if expected and str(error) else f"{type(error).__name__}: "
        raise DiptychError(f"{what}: {kind}{_line(error)}") from error


def _validated(probe: ProbeScore | None) -> float:
    return (probe.cv_accuracy if probe is not None else None) or 0.0


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _set_facts(labelled: LabelledSet, overlaps: tuple[str, ...]) -> SetFacts:
    return SetFacts(
        name=labelled.name,
        title=labelled.title,
        source=labelled.source,
        label_names=labelled.label_names,
        num_train=len(labelled.train),
        num_test=len(labelled.test),
        test_counts=labelled.test.counts(len(labelled.label_names)),
        control=labelled.control,
        overlaps=overlaps,
        notes=labelled.notes,
        fingerprint=labelled.fingerprint,
    )


def _plain(value: Any) -> Any:
    """A value as JSON has it: lists for tuples, text for paths."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
