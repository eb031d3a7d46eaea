"""What was found, in sentences that can be read alone; names of models stand between backticks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from probes.reporting.balance import shift_sentence, shifted
from probes.reporting.lookup import compared, equal_words, shuffled_twin, trained, twins_of
from probes.reporting.phrases import (
    counted,
    interval,
    layer_title,
    moment,
    over_seeds,
    p_equals,
    percent,
    points,
    quoted,
    verdict,
)
from probes.results import Comparison, Report, Score, SetFacts

_MOST_PAIRS = 3
_POOLED = {"mean": "mean", "last": "last-token", "cls": "first-token", "pred": "last-[PRED]"}


@dataclass(frozen=True)
class Summary:
    """The sentences.

    Attributes:
        headline: On all sets together.
        sets: One or more sentences for each set.
        cautions: What to keep in mind when reading the figures.
    """

    headline: tuple[str, ...]
    sets: tuple[str, ...]
    cautions: tuple[str, ...]


def subtitle(report: Report) -> str:
    """How much was probed, and when."""
    models = counted(len(trained(report)), "model")
    return f"{models} on {counted(len(report.sets), 'labelled set')} · {moment(report.created)}"


def summarise(report: Report) -> Summary:
    """The sentences of a report."""
    of_sets = (_set_sentences(report, facts) for facts in report.sets)
    return Summary(tuple(_headline(report)), tuple(filter(None, of_sets)), tuple(_cautions(report)))


def _headline(report: Report) -> list[str]:
    """Of the figures that the main table shows: one comparison for each pair and set, each at its chosen pooling."""
    sets = [facts for facts in report.sets if not facts.control]
    kind = "sentiment set" if all(facts.control is False for facts in sets) else "set"
    comparisons = [one for one in report.comparisons if one.pooling is None and one.set in {item.name for item in sets}]
    names = [model.name for model in trained(report)]
    sentences = []
    pairs = list(combinations(names, 2))
    if len(pairs) <= _MOST_PAIRS:
        for first, second in pairs:
            found = [one for one in comparisons if {one.first, one.second} == {first, second}]
            if found:
                sentences.append(_pair_sentence(first, second, found, kind))
    else:
        among = [one for one in comparisons if {one.first, one.second} <= set(names)]
        different = sum(one.different for one in among)
        if among:
            tested = len({frozenset((one.first, one.second)) for one in among})
            only = f"; {tested} of {len(pairs)} pairs were compared" if tested < len(pairs) else ""
            where = counted(len({one.set for one in among}), kind)
            sentences.append(
                f"{different:,} of {counted(len(among), 'comparison')} between the {len(names)} models show a "
                f"difference ({where}{only})."
            )
    against = [found for item in sets for name in names if (found := _against_random(report, item.name, name))]
    if against:
        above = sum(all(map(_above, found)) for found in against)
        most = max(map(len, against))
        reads = "sentiment" if kind == "sentiment set" else "labels"
        sentences.append(
            f"Trained weights read {reads} better than random weights of the same architecture in {above} of "
            f"{counted(len(against), 'comparison')}{f', each with all {most} seeds of these' if most > 1 else ''}."
        )
    return sentences


def _against_random(report: Report, set_name: str, name: str) -> list[Comparison]:
    """The comparisons of a model with its architecture's random weights, one for each of their seeds."""
    found = (compared(report, set_name, name, twin, None) for twin in twins_of(report, name))
    return [one for one in found if one is not None]


def _above(comparison: Comparison) -> bool:
    return comparison.different and comparison.difference.value > 0


def _pair_sentence(first: str, second: str, found: list[Comparison], kind: str) -> str:
    above = sum(one.different and (one.difference.value > 0) == (one.first == first) for one in found)
    below = sum(one.different for one in found) - above
    if below > above:
        first, second, above, below = second, first, below, above
    where = counted(len(found), kind)
    if not above:
        return f"No difference between {quoted(first)} and {quoted(second)} is shown ({where})."
    rest = [f"below on {below}"] * bool(below) + [f"without a difference shown on {len(found) - above - below}"]
    return f"{quoted(first)} is above {quoted(second)} on {above} of {where}" + (
        f", {' and '.join(rest)}." if above < len(found) else "."
    )


def _set_sentences(report: Report, facts: SetFacts) -> str:
    scores = [report.chosen(facts.name, model.name) for model in trained(report)]
    # Not by test accuracy: the best of many would look better than it is.
    order = sorted((score for score in scores if score), key=lambda score: -(score.cv_accuracy or 0.0))
    title = f"the control set {facts.title}" if facts.control else facts.title
    if not order:
        return f"On {title} no model was scored."
    best = order[0]
    parts = [_reading(report, facts, title, best, preferred=len(order) > 1)]
    if len(order) > 1:
        parts.append(_against(report, best, order[1]))
    equal = equal_words(report, facts.name, best.system)
    words, whole = report.chosen(facts.name, equal), report.chosen(facts.name, "tfidf")
    if words:
        parts.append(_against(report, best, words))
    if whole and equal != "tfidf":
        parts[-1] += f"; TF-IDF words of the whole texts reach {percent(whole.accuracy.value)} %"
    return " ".join([", ".join(parts) + ".", *_floor(report, facts, best)])


def _reading(report: Report, facts: SetFacts, title: str, best: Score, *, preferred: bool) -> str:
    where = layer_title(report, best.system, best.layer)
    reads = {False: "sentiment", True: "labels that are not sentiment", None: "the label"}[facts.control]
    by = ", which cross-validation prefers," if preferred else ""
    pooled = _POOLED.get(best.pooling or "", best.pooling)
    return (
        f"On {title} the {pooled} representation of {quoted(best.system)} at {where}{by} reads {reads} with "
        f"{percent(best.accuracy.value)} % accuracy (95 % interval {interval(best.accuracy, ' to ')})"
    )


def _against(report: Report, best: Score, other: Score) -> str:
    """The best score beside another one; which is higher is said only where that was tested."""
    name, reached = quoted(other.system), f"{percent(other.accuracy.value)} %"
    found = compared(report, best.set, best.system, other.system, None)
    if found is None:
        return f"beside {name} ({reached}; not compared)"
    size = points(abs(found.difference.value)).lstrip("+")
    side = "above" if found.difference.value > 0 else "below"
    how = "level with" if size == "0.0" else f"{size} points {side}"
    return f"{how} {name} ({reached}; {verdict(found)})"


def _floor(report: Report, facts: SetFacts, best: Score) -> list[str]:
    """What is reached with little or nothing to read."""
    parts, sentences = [], []
    random = [one for twin in twins_of(report, best.system) if (one := report.chosen(facts.name, twin))]
    if random:
        mean, spread = over_seeds(random)
        several = f" (mean of {len(random)} seeds, standard deviation {points(spread).lstrip('+')} points)"
        parts.append(
            f"random weights of the same architecture reach {percent(mean)} %{several if len(random) > 1 else ''}"
        )
        tested = _against_random(report, facts.name, best.system)
        open_ones = [one for one in tested if not _above(one)]
        if open_ones:
            where = f" for {len(open_ones)} of {len(tested)} seeds" if len(tested) > 1 else ""
            largest = p_equals(max(one.adjusted for one in open_ones))
            sentences.append(f"That it reads more than random weights do is not shown{where} ({largest}).")
    control = shuffled_twin(report, best)
    if control:
        selectivity = points(best.accuracy.value - control.accuracy.value).lstrip("+")
        parts.append(
            f"the same probe of shuffled labels reaches {percent(control.accuracy.value)} % "
            f"(selectivity {selectivity} points)"
        )
    majority = report.chosen(facts.name, "majority")
    if majority:
        parts.append(f"the most frequent class alone gives {percent(majority.accuracy.value)} %")
        found = compared(report, facts.name, best.system, "majority", None)
        if found and not _above(found):
            chance = p_equals(found.adjusted)
            sentences.append(f"That it is above the most frequent class is not shown ({chance}): no reading is shown.")
        elif not found and best.accuracy.low <= majority.accuracy.value:
            sentences.append("The interval does not exclude the most frequent class: no reading is shown.")
    if parts:
        listed = ", ".join(parts)
        sentences.insert(0, f"{listed[0].upper()}{listed[1:]}.")
    return sentences


def _cautions(report: Report) -> list[str]:
    cautions = []
    if report.problems:
        cautions.append(f"{counted(len(report.problems), 'thing')} could not be done; see Problems.")
    if report.notes:
        was = "was" if len(report.notes) == 1 else "were"
        cautions.append(f"{counted(len(report.notes), 'thing')} {was} done otherwise than asked; see Notes.")
    loose = sum(not score.converged for score in report.scores)
    if loose:
        cautions.append(f"{loose:,} of {counted(len(report.scores), 'probe')} stopped before they had converged.")
    shared = [facts for facts in report.sets if facts.overlaps]
    if shared:
        cautions.append(f"Texts are shared between splits or sets on {_titles(shared)}; see Data.")
    copied = [facts for facts in report.sets if facts.train_copies + facts.test_copies]
    if copied:
        number = sum(facts.train_copies + facts.test_copies for facts in copied)
        repeat = f"{counted(number, 'text repeats', 'texts repeat')} another of the same split"
        cautions.append(f"{repeat} on {_titles(copied)}; see Data.")
    cautions += [shift_sentence(facts) for facts in report.sets if shifted(facts)]
    cut = sum(number for by_set in report.truncated.values() for number in by_set.values())
    if cut:
        cautions.append(
            f"Texts longer than a model's context or --max-tokens were cut, {counted(cut, 'case')}; see Data."
        )
    names = {model.name for model in trained(report)}
    if len(names) > 1 and not any({one.first, one.second} <= names for one in report.comparisons):
        cautions.append("The models were not compared on the same examples: differences are untested.")
    return cautions


def _titles(sets: Sequence[SetFacts]) -> str:
    return ", ".join(facts.title for facts in sets)
