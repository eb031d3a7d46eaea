"""Queries on a report that several views share."""

from dataclasses import replace

from probes.reporting.phrases import CONTROLS, POOLINGS, is_control, system_title
from probes.results import CUT_WORDS, Comparison, Estimate, ModelFacts, Report, Score

_MOST_NAMES = 3


def trained(report: Report) -> list[ModelFacts]:
    """The trained models."""
    return [model for model in report.models if model.random_twin_of is None]


def twins(report: Report) -> list[ModelFacts]:
    """The models with random weights."""
    return [model for model in report.models if model.random_twin_of is not None]


def twins_of(report: Report, name: str) -> tuple[str, ...]:
    """Names of the random twins of a trained model, one for each seed; other models may share them."""
    return next((model.twins for model in report.models if model.name == name), ())


def random_weights(report: Report) -> list[tuple[str, ...]]:
    """Names of the models with random weights, grouped by architecture: those of a group differ only in their seed."""
    found: dict[str, list[str]] = {}
    for model in twins(report):
        found.setdefault(model.random_twin_of or "", []).append(model.name)
    return [tuple(names) for names in found.values()]


def seed_title(report: Report, twin: str) -> str:
    """A suffix with the seed of random weights, where there are several seeds."""
    family = next((names for names in random_weights(report) if twin in names), ())
    seeds = {model.name: model.random_seed for model in report.models}
    return f", seed {seeds[twin] or 0}" if len(family) > 1 else ""


def models_sharing(report: Report, twin: str) -> list[str]:
    """The trained models that share a random twin."""
    return [model.name for model in trained(report) if twin in model.twins]


def display_name(report: Report, system: str) -> str:
    """A system's name for people; for random weights that several models share, with the names of these models."""
    names = models_sharing(report, system)
    if len(names) < 2:
        return system_title(system)
    whose = ", ".join(names) if len(names) <= _MOST_NAMES else f"{names[0]} and {len(names) - 1} more"
    return system_title(f"random weights{seed_title(report, system)} ({whose})")


def model_notes(report: Report) -> list[str]:
    """What was changed to make the models fit."""
    return [f"`{model.name}`: {one}" for model in report.models for one in model.notes]


def controls(report: Report) -> list[str]:
    """Scored systems without a model: TF-IDF of cut texts, TF-IDF, majority class."""
    scored = dict.fromkeys(score.system for score in report.scores)
    return [*(name for name in scored if name.startswith(CUT_WORDS)), *(name for name in CONTROLS if name in scored)]


def equal_words(report: Report, set_name: str, system: str) -> str:
    """The TF-IDF words of the same input as a model's."""
    return report.equal_input.get(set_name, {}).get(system, "tfidf")


def systems(report: Report) -> list[str]:
    """Everything that was scored: models, random weights, controls."""
    scored = {score.system for score in report.scores}
    models = [model.name for model in (*trained(report), *twins(report)) if model.name in scored]
    return [*models, *controls(report)]


def poolings(report: Report) -> list[str]:
    """All poolings in the report."""
    found = {score.pooling for score in report.scores if score.pooling} | {one.pooling for one in report.geometry}
    found |= {one.pooling for one in report.similarities}
    return sorted(found, key=lambda name: (list(POOLINGS).index(name) if name in POOLINGS else len(POOLINGS), name))


def whole(report: Report, set_name: str) -> int:
    """Training examples of the largest training set that was used."""
    return max((score.train_size for score in report.scores if score.set == set_name), default=0)


def shuffled(report: Report, set_name: str, pooling: str | None = None) -> Score | None:
    """The best of all probes with shuffled labels."""
    found = [
        score
        for score in report.scores
        if score.shuffled and score.set == set_name and pooling in (None, score.pooling)
    ]
    return max(found, key=lambda score: score.accuracy.value, default=None)


def shuffled_twin(report: Report, score: Score) -> Score | None:
    """The same probe (system, layer, pooling, training examples) with shuffled labels."""
    return next((one for one in report.scores if one.shuffled and _probe(one) == _probe(score)), None)


def _probe(score: Score) -> tuple[object, ...]:
    return score.set, score.system, score.layer, score.pooling, score.train_size


def compared(report: Report, set_name: str, first: str, second: str, pooling: str | None) -> Comparison | None:
    """The comparison of two systems, turned so that ``first`` comes first.

    With a pooling, both at that one; with None, each at the pooling that cross-validation chose.
    """
    for one in report.comparisons:
        if (one.set, one.pooling) != (set_name, pooling):
            continue
        if (one.first, one.second) == (first, second):
            return one
        if (one.second, one.first) == (first, second):
            turned = one.difference
            difference = Estimate(-turned.value, -turned.high, -turned.low, turned.std)
            return replace(
                one,
                first=first,
                second=second,
                first_layer=one.second_layer,
                second_layer=one.first_layer,
                difference=difference,
            )
    return None


def ranked(report: Report, set_name: str, pooling: str | None = None) -> list[Score]:
    """Every system's chosen score on a set, the best first; controls belong to every pooling."""
    chosen = [report.chosen(set_name, system, None if is_control(system) else pooling) for system in systems(report)]
    return sorted((score for score in chosen if score), key=lambda score: -score.accuracy.value)


def clear_best(report: Report, set_name: str, pooling: str | None = None) -> str | None:
    """The best system, if a comparison finds it different from the next one."""
    best = ranked(report, set_name, pooling)[:2]
    if len(best) < 2:
        return None
    found = compared(report, set_name, best[0].system, best[1].system, pooling)
    return best[0].system if found and found.different and found.difference.value > 0 else None


def runs(report: Report) -> dict[str, list[ModelFacts]]:
    """Checkpoints of the runs that have several, by run and in order of steps."""
    found: dict[str, list[ModelFacts]] = {}
    for model in trained(report):
        if model.run is not None and model.step is not None:
            found.setdefault(model.run, []).append(model)
    ordered = {run: sorted(models, key=lambda model: model.step or 0) for run, models in found.items()}
    return {run: models for run, models in ordered.items() if len({model.step for model in models}) > 1}
