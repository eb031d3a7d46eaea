"""All probes of one set: every layer with one seed, then the chosen ones with all seeds and sizes, and the controls."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from pretrain.probing.copies import Copies, find_copies
from pretrain.probing.sampling import curve_sizes
from probes.arguments import Settings
from probes.attempts import Attempts
from probes.encoding.encode import Encoded
from probes.findings import Chosen, Measured
from probes.probing.controls import majority, tfidf
from probes.probing.scores import ProbeScore, probe_scores
from probes.results import CUT_WORDS, Score
from probes.sets import LabelledSet, Split

Representation = tuple[str, str, int]
"""System, pooling and layer."""


class SetProber:
    """Probes one set with every model that encoded it.

    Args:
        labelled: The set.
        settings: Of the run.
        measured: What was encoded; the chosen representations are added to it.
        attempts: Runs the probes and notes failures.
    """

    def __init__(self, labelled: LabelledSet, settings: Settings, measured: Measured, attempts: Attempts) -> None:
        self.labelled, self.measured, self.attempts = labelled, measured, attempts
        self.name, self.seeds = labelled.name, range(settings.seeds)
        num_train, classes = len(labelled.train), len(labelled.label_names)
        asked = curve_sizes(num_train) if settings.sizes is None else settings.sizes
        self.sizes = (*(size for size in asked if size >= classes), num_train)
        if few := [f"{size:,}" for size in asked if size < classes]:
            attempts.note(f"{self.name}: train sizes below its {classes} classes are left out ({', '.join(few)})")
        self.train_copies = {
            facts.name: labelled.train.copies if not encoded.cut else self._copies_as_read(encoded)
            for facts, encoded in measured.systems(self.name)
        }

    def run(self) -> list[Score]:
        """All scores. Collective: every rank returns the same."""
        swept = self._sweep()
        scores = self._deepen(swept)
        scores += [
            probe.score(self.name, system, layer, pooling)
            for (system, pooling, layer), probe in swept.items()
            if probe is not None
        ]
        return scores + self._controls()

    def _sweep(self) -> dict[Representation, ProbeScore | None]:
        """Every layer and pooling of every model, with one seed."""
        tasks = [
            (facts.name, pooling, layer)
            for facts, encoded in self.measured.systems(self.name)
            for pooling in encoded.poolings
            for layer in range(encoded.layers)
        ]
        probes = self.attempts.shared(f"{self.name}: layers", tasks, lambda task: self._scores(*task)[-1])
        return dict(zip(tasks, probes, strict=True))

    def _deepen(self, swept: dict[Representation, ProbeScore | None]) -> list[Score]:
        """The best layer of every model and pooling with all seeds and sizes and shuffled labels; updates ``swept``."""
        best: dict[tuple[str, str], Representation] = {}
        for task, probe in swept.items():
            known = best.get(task[:2])
            if probe is not None and (known is None or _validated(probe) >= _validated(swept[known])):
                best[task[:2]] = task
        chosen = list(best.values())

        def deepen(task: Representation) -> tuple[tuple[ProbeScore, ...], ProbeScore]:
            probe = swept[task]
            assert probe is not None
            shuffled = self._scores(*task, seeds=self.seeds, shuffled=True, strength=probe.strengths[0])[-1]
            curve = self._scores(*task, seeds=self.seeds, sizes=self.sizes)
            # Layers are compared by the cross-validation of one seed, so the chosen one keeps its value.
            return (*curve[:-1], replace(curve[-1], cv_accuracy=probe.cv_accuracy)), shuffled

        scores = []
        results = self.attempts.shared(f"{self.name}: chosen layers", chosen, deepen)
        for task, scored in zip(chosen, results, strict=True):
            system, pooling, layer = task
            if scored is None:  # leave the pooling out: another layer would not be the chosen one
                swept |= {other: None for other in swept if other[:2] == task[:2]}
                continue
            curve, shuffled = scored
            swept[task] = curve[-1]
            self._choose(Chosen(system, pooling, layer, curve[-1]))
            scores += [probe.score(self.name, system, layer, pooling) for probe in (*curve[:-1], shuffled)]
        return scores

    def _scores(self, system: str, pooling: str, layer: int, **options: Any) -> tuple[ProbeScore, ...]:
        labelled = self.labelled
        states, cut = self.measured.encoded[system, self.name].get(layer, pooling), len(labelled.train)
        return probe_scores(
            states[:cut],
            labelled.train.labels,
            states[cut:],
            labelled.test.labels,
            num_classes=len(labelled.label_names),
            train_copies=self.train_copies[system],
            test_clusters=labelled.test.copies.clusters,
            place=f"{self.name}, {system}, layer {layer}, {pooling}",
            **options,
        )

    def _controls(self) -> list[Score]:
        """The majority class, TF-IDF words of whole texts and, where models cut texts, of the parts that they read."""
        train, test, classes = self.labelled.train, self.labelled.test, len(self.labelled.label_names)
        inputs: dict[str, tuple[Sequence[str], Sequence[str]]] = {"tfidf": (train.texts, test.texts)}
        equal: dict[str, str] = {}
        known: dict[tuple[tuple[int, int], ...], str] = {}
        for facts, encoded in self.measured.systems(self.name):
            if facts.random_twin_of is None:
                cut = tuple(sorted(encoded.cut.items()))
                system = known.setdefault(cut, CUT_WORDS + facts.name) if cut else "tfidf"
                equal[facts.name] = system
                inputs.setdefault(system, self._as_read(encoded))
        self.measured.equal_input[self.name] = equal

        def words(task: tuple[str]) -> tuple[ProbeScore, ...]:
            train_texts, test_texts = inputs[task[0]]
            model = task[0].removeprefix(CUT_WORDS)
            return tfidf(
                train_texts,
                train.labels,
                test_texts,
                test.labels,
                num_classes=classes,
                sizes=self.sizes,
                seeds=self.seeds,
                train_copies=train.copies if task[0] == "tfidf" else self.train_copies[model],
                test_clusters=test.copies.clusters,
                place=f"{self.name}, {task[0]}",
            )

        systems = [(system,) for system in inputs]
        largest = majority(train.labels, test.labels, classes, test.copies.clusters)
        curves: dict[str, tuple[ProbeScore, ...]] = {"majority": (largest,)}
        for (system,), curve in zip(systems, self.attempts.shared(self.name, systems, words), strict=True):
            curves[system] = curve or ()
        scores = []
        for system, curve in curves.items():
            scores += [probe.score(self.name, system) for probe in curve]
            if curve:
                self._choose(Chosen(system, None, None, curve[-1]))
        return scores

    def _as_read(self, encoded: Encoded) -> tuple[list[str], list[str]]:
        """Train and test texts, cut where the model cut them."""
        train, test = self.labelled.train.texts, self.labelled.test.texts
        texts = [text[: encoded.cut.get(number)] for number, text in enumerate((*train, *test))]
        return texts[: len(train)], texts[len(train) :]

    def _copies_as_read(self, encoded: Encoded) -> Copies:
        """Which training texts are copies for a model that cuts them: also those with the same beginning."""
        read = Split(tuple(self._as_read(encoded)[0]), self.labelled.train.labels)
        return find_copies(read.keys, self.labelled.train.copies.clusters.tolist())

    def _choose(self, item: Chosen) -> None:
        self.measured.chosen.setdefault(self.name, []).append(item)


def _validated(probe: ProbeScore | None) -> float:
    return (probe.cv_accuracy if probe is not None else None) or 0.0
