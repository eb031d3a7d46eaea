"""A probing run: reads the sets, encodes them with every model, trains probes and makes the report."""

import datetime
import platform
import re
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pretrain import __version__
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes.arguments import Settings, random_name
from probes.attempts import Attempts
from probes.encoding.encode import encode
from probes.encoding.pairs import read_pairs
from probes.encoding.probed_model import ProbedModel, open_model
from probes.findings import LOOKED_AT, Measured, comparisons, geometry, predictions, sample, similarities
from probes.reporting import write_projector
from probes.results import ModelFacts, Report, Score, SetFacts
from probes.set_prober import SetProber
from probes.sets import REGISTRY, LabelledSet, find_overlaps, load_set


class ProbingRun:
    """Models and sets of a run, and what was measured so far.

    Args:
        settings: From the command line.
        ranks: All of them encode, and share the probes.
        command: The command that repeats the run.
    """

    def __init__(self, settings: Settings, ranks: Ranks, command: str) -> None:
        self.settings, self.ranks, self.command = settings, ranks, command
        self.attempts = Attempts(ranks)
        self.measured = Measured(notes=self.attempts.notes)
        self.scores: list[Score] = []
        self.pairs: tuple[tuple[str, ...], tuple[str, ...]] | None = None

    def run(self) -> Report:
        """Runs everything. Collective: every rank returns the same report.

        Raises:
            DiptychError: No set could be read, or no model be probed.
        """
        self._read_sets()
        self._encode()
        for labelled in self.measured.sets:
            self.scores += SetProber(labelled, self.settings, self.measured, self.attempts).run()
        return self.ranks.on_main(self._report, long=True)

    def _read_sets(self) -> None:
        settings = self.settings
        for spec in settings.sets:
            labelled = self.attempts.attempt(spec, partial(load_set, spec, settings.options))
            if labelled is None:
                continue
            if any(other.name == labelled.name for other in self.measured.sets):
                where = re.sub(r"^\w[\w.-]*=", "", spec)
                remedy = "leave it out" if where in (*REGISTRY, "reviews") else f"name it, as in NAME={where}"
                self.attempts.problem(f"{spec}: a second set called {labelled.name!r}; {remedy}")
            else:
                self.measured.sets.append(labelled)
        if settings.pairs is not None:
            read = partial(read_pairs, settings.pairs, settings.pair_fields, LOOKED_AT)
            self.pairs = self.attempts.attempt(self._pairs_name, read)
        if not self.measured.sets:
            raise DiptychError("no set could be read: " + "; ".join(self.attempts.problems))

    def _encode(self) -> None:
        """Encodes every set with every model and its random twins, one model in memory at a time."""
        twins: dict[str, tuple[str, ...]] = {}
        for name, path in self.settings.models.items():
            model = self.attempts.attempt(name, partial(self._open, path, None))
            facts = self._encode_with(model, name, None) if model is not None else None
            if model is None or facts is None:
                continue
            position, twin_key = len(self.measured.models), model.twin_key
            self.measured.models.append(facts)
            del model
            if twin_key not in twins:
                twins[twin_key] = self._encode_twins(name, path)
            self.measured.models[position] = replace(facts, twins=twins[twin_key])
        if not self.measured.models:
            raise DiptychError("no model could be probed: " + "; ".join(self.attempts.problems))

    def _encode_twins(self, name: str, path: str) -> tuple[str, ...]:
        """Encodes with the random twins of a model; returns the names of those that succeeded."""
        names = []
        for seed in range(self.settings.random_seeds):
            model = self.attempts.attempt(random_name(name, seed), partial(self._open, path, seed))
            facts = self._encode_with(model, random_name(name, seed), name) if model is not None else None
            if facts is not None:
                self.measured.models.append(facts)
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
            # Models that differ only in [PRED] tokens share a twin if no pooling reads these tokens.
            predictors=None if "pred" in settings.poolings else 0,
        )

    def _encode_with(self, model: ProbedModel, name: str, twin_of: str | None) -> ModelFacts | None:
        """Encodes every set and the pairs; returns the model's facts, or None if nothing could be encoded."""
        settings = self.settings
        poolings = [pooling for pooling in settings.poolings if pooling in model.poolings]
        lacks = {"pred": "was not trained with [PRED] tokens", "cls": _no_first_token(model)}
        missing = [pooling for pooling in settings.poolings if pooling not in poolings]
        if not poolings:
            why = " and ".join(lacks[pooling] for pooling in missing)
            self.attempts.problem(f"{name}: {why}, and no other pooling is asked for")
            return None
        if twin_of is None:
            for pooling in missing:
                self.attempts.note(f"{name} {lacks[pooling]}, so it has no pooling {pooling}")
        texts = {labelled.name: [*labelled.train.texts, *labelled.test.texts] for labelled in self.measured.sets}
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
            except DiptychError as error:  # raised on all ranks
                self.attempts.problem(f"{place}: {error}")
                continue
            self.measured.encoded[name, place] = encoded
            for note in encoded.notes:
                self.attempts.say(f"note: {note}")
        return model.describe(name, twin_of) if any(system == name for system, _ in self.measured.encoded) else None

    @property
    def _pairs_name(self) -> str:
        """The name of the pairs among the sets."""
        path = self.settings.pairs
        assert path is not None
        return str(path.absolute() if any(labelled.name == str(path) for labelled in self.measured.sets) else path)

    def write_projector(self, folder: Path) -> None:
        """Stores the test texts of every set for TensorBoard's Projector, at each trained model's chosen layers."""
        trained = {facts.name for facts in self.measured.models if facts.random_twin_of is None}
        for labelled in self.measured.sets:
            rows = sample(labelled, LOOKED_AT)
            for item in self.measured.chosen.get(labelled.name, ()):
                if item.system not in trained or item.layer is None or item.pooling is None:
                    continue
                states = self.measured.test_states(labelled, item.system, item.layer, item.pooling)
                write_projector(
                    folder,
                    f"{labelled.name}, {item.system}, {item.pooling}, layer {item.layer}",
                    states[rows],
                    [labelled.label_names[label] for label in labelled.test.labels[rows]],
                    [labelled.test.texts[row] for row in rows],
                )

    def _report(self) -> Report:
        measured, settings = self.measured, self.settings
        overlaps = find_overlaps(measured.sets)
        pairs = None if self.pairs is None else self._pairs_name
        places = [*(labelled.name for labelled in measured.sets), *([pairs] if pairs is not None else [])]
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
            models=tuple(measured.models),
            sets=tuple(_set_facts(item, overlaps[item.name]) for item in measured.sets),
            scores=tuple(self.scores),
            comparisons=self.attempts.part("comparisons", lambda: comparisons(measured, settings.poolings)),
            geometry=self.attempts.part("geometry", lambda: geometry(measured, pairs)),
            similarities=self.attempts.part("CKA", lambda: similarities(measured, settings.poolings)),
            predictions=self.attempts.part("predictions", lambda: predictions(measured)),
            equal_input=measured.equal_input,
            truncated={
                facts.name: {
                    place: measured.encoded[facts.name, place].truncated
                    for place in places
                    if (facts.name, place) in measured.encoded
                }
                for facts in measured.models
            },
            problems=tuple(self.attempts.problems),
            notes=tuple(measured.notes),  # last, because the parts above add notes
        )


def _no_first_token(model: ProbedModel) -> str:
    return "reads from left to right" if model.mode.causal else "has no token before its texts"


def _set_facts(labelled: LabelledSet, overlaps: tuple[str, ...]) -> SetFacts:
    return SetFacts(
        name=labelled.name,
        title=labelled.title,
        source=labelled.source,
        label_names=labelled.label_names,
        num_train=len(labelled.train),
        num_test=len(labelled.test),
        train_counts=labelled.train.counts(len(labelled.label_names)),
        test_counts=labelled.test.counts(len(labelled.label_names)),
        train_copies=labelled.train.copies.num_repeated,
        test_copies=labelled.test.copies.num_repeated,
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
