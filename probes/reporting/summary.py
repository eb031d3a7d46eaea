"""What was found, in sentences that can be read alone; names of models stand between backticks."""

from dataclasses import dataclass
from itertools import combinations

from probes.reporting.lookup import compared, shuffled, trained, twin_of, twins
from probes.reporting.phrases import (
    counted,
    interval,
    layer_title,
    p_equals,
    percent,
    points,
    pooling_title,
    quoted,
    verdict,
)
from probes.results import Comparison, Report, Score, SetFacts

_MOST_PAIRS = 3


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


def summarise(report: Report) -> Summary:
    """The sentences of a report."""
    of_sets = (_set_sentences(report, facts) for facts in report.sets)
    return Summary(tuple(_headline(report)), tuple(filter(None, of_sets)), tuple(_cautions(report)))


def _headline(report: Report) -> list[str]:
    sentiment = {facts.name for facts in report.sets if not facts.control}
    comparisons = [one for one in report.comparisons if one.set in sentiment]
    names = [model.name for model in trained(report)]
    sentences = []
    pairs = list(combinations(names, 2))
    if len(pairs) <= _MOST_PAIRS:
        for first, second in pairs:
            found = [one for one in comparisons if {one.first, one.second} == {first, second}]
            if found:
                sentences.append(_pair_sentence(first, second, found))
    else:
        found = [one for one in comparisons if {one.first, one.second} <= set(names)]
        different = sum(one.different for one in found)
        if found:
            where = counted(len({one.set for one in found}), "sentiment set")
            sentences.append(
                f"{different:,} of {counted(len(found), 'comparison')} between the {len(names)} models show a "
                f"difference ({where})."
            )
    random = {model.name: model.random_twin_of for model in twins(report)}
    against = [one for one in comparisons if random.get(one.second) == one.first or random.get(one.first) == one.second]
    if against:
        above = sum(one.different and (one.difference.value > 0) == (one.second in random) for one in against)
        sentences.append(
            f"Trained weights read sentiment better than random weights of the same architecture in {above} of "
            f"{counted(len(against), 'comparison')}."
        )
    return sentences


def _pair_sentence(first: str, second: str, found: list[Comparison]) -> str:
    above = sum(one.different and (one.difference.value > 0) == (one.first == first) for one in found)
    below = sum(one.different for one in found) - above
    if below > above:
        first, second, above, below = second, first, below, above
    num_sets, num_poolings = len({one.set for one in found}), len({one.pooling for one in found})
    where = counted(num_sets, "sentiment set") + (f", {num_poolings} poolings" if num_poolings > 1 else "")
    if not above:
        return f"No difference between {quoted(first)} and {quoted(second)} is shown ({where})."
    rest = [f"below in {below}"] * bool(below) + [f"without a difference shown in {len(found) - above - below}"]
    return f"{quoted(first)} is above {quoted(second)} in {above} of {counted(len(found), 'comparison')} ({where})" + (
        f", {' and '.join(rest)}." if above < len(found) else "."
    )


def _set_sentences(report: Report, facts: SetFacts) -> str:
    scores = [report.chosen(facts.name, model.name) for model in trained(report)]
    order = sorted((score for score in scores if score), key=lambda score: -score.accuracy.value)
    title = f"the control set {facts.title}" if facts.control else facts.title
    if not order:
        return f"On {title} no model was scored."
    best = order[0]
    parts = [_reading(report, facts, title, best)]
    if len(order) > 1:
        parts.append(_against(report, best, order[1]))
    words = report.chosen(facts.name, "tfidf")
    if words:
        parts.append(_against(report, best, words))
    return " ".join([", ".join(parts) + ".", *_floor(report, facts, best)])


def _reading(report: Report, facts: SetFacts, title: str, best: Score) -> str:
    where = layer_title(report, best.system, best.layer)
    reads = "labels that are not sentiment" if facts.control else "sentiment"
    pooled = {"mean": "mean", "last": "last-token", "pred": "last-[PRED]"}.get(best.pooling or "", best.pooling)
    return (
        f"On {title} the {pooled} representation of {quoted(best.system)} at {where} reads {reads} with "
        f"{percent(best.accuracy.value)} % accuracy (95 % interval {interval(best.accuracy, ' to ')})"
    )


def _against(report: Report, best: Score, other: Score) -> str:
    """The best score beside another one: tested where there is a comparison, else by intervals alone."""
    name, reached = quoted(other.system), f"{percent(other.accuracy.value)} %"
    found = compared(report, best.set, best.system, other.system, best.pooling)
    if found:
        size = points(abs(found.difference.value)).lstrip("+")
        side = "above" if found.difference.value > 0 else "below"
        how = "level with" if size == "0.0" else f"{size} points {side}"
        alike = other.pooling in (None, best.pooling)
        at = "" if alike else f", both at the pooling {pooling_title(best.pooling)}"
        return f"{how} {name} ({reached}; {verdict(found)}{at})"
    if best.accuracy.low > other.accuracy.high:
        return f"above {name} ({reached})"
    if best.accuracy.high < other.accuracy.low:
        return f"below {name} ({reached})"
    return f"near {name} ({reached}, the intervals overlap)"


def _floor(report: Report, facts: SetFacts, best: Score) -> list[str]:
    """What is reached with little or nothing to read."""
    parts, sentences = [], []
    twin = twin_of(report, best.system)
    random = report.chosen(facts.name, twin) if twin else None
    if twin and random:
        parts.append(f"random weights of the same architecture reach {percent(random.accuracy.value)} %")
        found = compared(report, facts.name, best.system, twin, best.pooling)
        if found and not (found.different and found.difference.value > 0):
            sentences.append(f"That it reads more than random weights do is not shown ({p_equals(found.adjusted)}).")
    control = shuffled(report, facts.name)
    if control:
        selectivity = points(best.accuracy.value - control.accuracy.value).lstrip("+")
        parts.append(
            f"probes of shuffled labels reach at most {percent(control.accuracy.value)} % "
            f"(selectivity {selectivity} points)"
        )
    majority = report.chosen(facts.name, "majority")
    if majority:
        parts.append(f"the most frequent class alone gives {percent(majority.accuracy.value)} %")
        if best.accuracy.low <= majority.accuracy.value:
            sentences.append("The interval does not exclude the most frequent class: no reading is shown.")
    if parts:
        listed = ", ".join(parts)
        sentences.insert(0, f"{listed[0].upper()}{listed[1:]}.")
    return sentences


def _cautions(report: Report) -> list[str]:
    cautions = []
    if report.problems:
        cautions.append(f"{counted(len(report.problems), 'thing')} could not be done; see Problems.")
    loose = sum(not score.converged for score in report.scores)
    if loose:
        cautions.append(f"{loose:,} of {counted(len(report.scores), 'probe')} stopped before they had converged.")
    shared = [facts.title for facts in report.sets if facts.overlaps]
    if shared:
        cautions.append(f"Texts are shared between splits or sets on {', '.join(shared)}; see Data.")
    cut = sum(number for by_set in report.truncated.values() for number in by_set.values())
    if cut:
        cautions.append(f"Texts longer than a model's context were cut, {counted(cut, 'case')} in all; see Data.")
    if not report.comparisons and len(trained(report)) > 1:
        cautions.append("The models were not compared on the same examples: differences are untested.")
    return cautions
