"""Questions that several views ask of a report."""

from dataclasses import replace

from probes.reporting.phrases import CONTROLS, POOLINGS
from probes.results import Comparison, Estimate, ModelFacts, Report, Score


def trained(report: Report) -> list[ModelFacts]:
    """The models that were asked about."""
    return [model for model in report.models if model.random_twin_of is None]


def twins(report: Report) -> list[ModelFacts]:
    """Their architectures with random weights."""
    return [model for model in report.models if model.random_twin_of is not None]


def twin_of(report: Report, name: str) -> str | None:
    """The model with random weights that has the architecture of another one."""
    return next((model.name for model in report.models if model.random_twin_of == name), None)


def controls(report: Report) -> list[str]:
    """Systems without a model that were scored, the strongest kind first."""
    scored = {score.system for score in report.scores}
    return [name for name in CONTROLS if name in scored]


def systems(report: Report) -> list[str]:
    """Everything that was scored: models, random weights, controls."""
    scored = {score.system for score in report.scores}
    models = [model.name for model in (*trained(report), *twins(report)) if model.name in scored]
    return [*models, *controls(report)]


def poolings(report: Report) -> list[str]:
    """Poolings that anything was measured at."""
    found = {score.pooling for score in report.scores if score.pooling} | {one.pooling for one in report.geometry}
    found |= {one.pooling for one in report.similarities}
    return sorted(found, key=lambda name: (list(POOLINGS).index(name) if name in POOLINGS else len(POOLINGS), name))


def whole(report: Report, set_name: str) -> int:
    """Training examples of the largest training set that was used."""
    return max((score.train_size for score in report.scores if score.set == set_name), default=0)


def shuffled(report: Report, set_name: str, pooling: str | None = None) -> Score | None:
    """The best probe with shuffled labels: what a probe reaches with nothing to read."""
    found = [
        score
        for score in report.scores
        if score.shuffled and score.set == set_name and pooling in (None, score.pooling)
    ]
    return max(found, key=lambda score: score.accuracy.value, default=None)


def compared(report: Report, set_name: str, first: str, second: str, pooling: str | None) -> Comparison | None:
    """The comparison of two systems, turned so that ``first`` comes first; of any pooling where that is None."""
    for one in report.comparisons:
        if one.set != set_name or pooling not in (None, one.pooling):
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
    """Every system's chosen score on a set, the best first; controls have every pooling."""
    chosen = [report.chosen(set_name, system, None if system in CONTROLS else pooling) for system in systems(report)]
    return sorted((score for score in chosen if score), key=lambda score: -score.accuracy.value)


def clear_best(report: Report, set_name: str, pooling: str | None = None) -> str | None:
    """The best system, if a comparison finds it different from the next one."""
    best = ranked(report, set_name, pooling)[:2]
    if len(best) < 2:
        return None
    at = best[0].pooling or best[1].pooling
    found = compared(report, set_name, best[0].system, best[1].system, at)
    return best[0].system if found and found.different and found.difference.value > 0 else None


def runs(report: Report) -> dict[str, list[ModelFacts]]:
    """Checkpoints by training run and in order, of the runs with several."""
    found: dict[str, list[ModelFacts]] = {}
    for model in trained(report):
        if model.run is not None and model.step is not None:
            found.setdefault(model.run, []).append(model)
    ordered = {run: sorted(models, key=lambda model: model.step or 0) for run, models in found.items()}
    return {run: models for run, models in ordered.items() if len({model.step for model in models}) > 1}
