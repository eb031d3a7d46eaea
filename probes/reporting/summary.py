"""The results in sentences that can be read alone; names of models stand between backticks."""

from collections.abc import Collection, Sequence
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
        cautions: Limits of the figures.
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
    sentiment = all(facts.control is False for facts in sets)
    kind = "sentiment set" if sentiment else "set"
    comparisons = [one for one in report.comparisons if one.pooling is None and one.set in {item.name for item in sets}]
    names = [model.name for model in trained(report)]
    sentences = [
        *_learned(report, sets, names, "sentiment" if sentiment else "the labels"),
        *_words(report, sets, names),
    ]
    pairs = list(combinations(names, 2))
    if len(pairs) <= _MOST_PAIRS:
        for first, second in pairs:
            tested = [one for one in comparisons if {one.first, one.second} == {first, second}]
            if tested:
                sentences.append(_pair_sentence(first, second, tested, kind))
    else:
        among = [one for one in comparisons if {one.first, one.second} <= set(names)]
        different = sum(one.different for one in among)
        if among:
            compared_pairs = len({frozenset((one.first, one.second)) for one in among})
            only = f"; {compared_pairs} of {len(pairs)} pairs were compared" if compared_pairs < len(pairs) else ""
            where = counted(len({one.set for one in among}), kind)
            sentences.append(
                f"{different:,} of {counted(len(among), 'comparison')} between the {len(names)} models show a "
                f"difference ({where}{only})."
            )
    return sentences


def _learned(report: Report, sets: Sequence[SetFacts], names: Sequence[str], what: str) -> list[str]:
    """Which models are shown to have learned the labels: those above random weights and the most frequent class."""
    learned: dict[str, list[bool]] = {}
    differences: list[float] = []
    seeds, beside_majority = 1, False
    for name in names:
        for facts in sets:
            random = _against_random(report, facts.name, name)
            majority = compared(report, facts.name, name, "majority", None)
            if random:
                learned.setdefault(name, []).append(all(map(_above, [*random, *([majority] if majority else [])])))
                differences += [one.difference.value for one in random]
                seeds, beside_majority = max(seeds, len(random)), beside_majority or majority is not None
    verdicts = [verdict for of_sets in learned.values() for verdict in of_sets]
    if not verdicts:
        return []
    floor = f"random weights of the same architecture{f', with all {seeds} seeds of these' if seeds > 1 else ''}"
    size = f"difference{'s' * (len(differences) > 1)} of {_range(differences)} points"
    if all(verdicts):
        return [f"{_subject(learned, names)} learned {what}: significantly above {floor} ({size})."]
    if beside_majority:
        floor += f"{',' * (seeds > 1)} and the most frequent class"
        size += " from random weights"
    if not any(verdicts):
        nobody = _subject(learned, names, none=True)
        return [f"{nobody} shown to have learned {what}: not significantly above {floor} ({size})."]
    if len(learned) > _MOST_PAIRS:
        cases = counted(len(verdicts), "comparison")
        return [f"In {sum(verdicts)} of {cases} a model is significantly above {floor} ({size})."]
    parts = [f"{quoted(name)} on {sum(of_sets)} of {counted(len(of_sets), 'set')}" for name, of_sets in learned.items()]
    return [f"Shown to have learned {what}, significantly above {floor}: {', '.join(parts)} ({size})."]


def _words(report: Report, sets: Sequence[SetFacts], names: Sequence[str]) -> list[str]:
    """How the models compare with TF-IDF words of the same input."""
    tested = [
        (name, one)
        for name in names
        for facts in sets
        if (one := compared(report, facts.name, name, equal_words(report, facts.name, name), None))
    ]
    if not tested:
        return []
    models = dict.fromkeys(name for name, _ in tested)
    subject = _subject(models, names)
    objects = subject if len(models) == 1 else subject[0].lower() + subject[1:]
    above = [one.difference.value for _, one in tested if _above(one)]
    below = [-one.difference.value for _, one in tested if one.different and one.difference.value < 0]
    if len(below) == len(tested):
        return [f"TF-IDF words beat {objects} by {_range(below)} points."]
    if len(above) == len(tested):
        beat = "beats" if len(models) == 1 else "beat"
        return [f"{subject} {beat} TF-IDF words by {_range(above)} points."]
    if not above and not below:
        return [f"No difference between {objects} and TF-IDF words is shown."]
    parts = [f"beat a model in {len(below)} (by {_range(below)} points)"] if below else []
    parts += [f"are beaten in {len(above)} (by {_range(above)} points)"] if above else []
    rest = len(tested) - len(above) - len(below)
    parts += [f"show no difference in {rest}"] if rest else []
    return [f"Of {counted(len(tested), 'comparison')} TF-IDF words {', '.join(parts)}."]


def _subject(compared_ones: Collection[str], names: Sequence[str], *, none: bool = False) -> str:
    """The models that were compared, as the beginning of a sentence; ``none``: for what none of them is."""
    if len(compared_ones) == 1:
        return f"{quoted(*compared_ones)} is not" if none else quoted(*compared_ones)
    if len(compared_ones) == len(names) == 2:
        return "Neither model is" if none else "Both models"
    compared_here = "" if len(compared_ones) == len(names) else "compared "
    return f"{'None of the' if none else 'All'} {len(compared_ones)} {compared_here}models{' is' * none}"


def _range(differences: Sequence[float]) -> str:
    """Differences of shares in percentage points, from the least to the greatest."""
    low, high = (points(value).lstrip("+") for value in (min(differences), max(differences)))
    return low if low == high else f"{low} to {high}"


def _against_random(report: Report, set_name: str, name: str) -> list[Comparison]:
    """The comparisons of a model with its architecture's random weights, one for each of their seeds."""
    tested = (compared(report, set_name, name, twin, None) for twin in twins_of(report, name))
    return [one for one in tested if one is not None]


def _above(comparison: Comparison) -> bool:
    return comparison.different and comparison.difference.value > 0


def _pair_sentence(first: str, second: str, tested: list[Comparison], kind: str) -> str:
    gaps = [one.difference.value if one.first == first else -one.difference.value for one in tested]
    different = [gap for one, gap in zip(tested, gaps, strict=True) if one.different]
    if sum(gap < 0 for gap in different) > len(different) / 2:
        first, second = second, first
        gaps, different = [-gap for gap in gaps], [-gap for gap in different]
    above, below = [gap for gap in different if gap > 0], [-gap for gap in different if gap < 0]
    where = counted(len(tested), kind)
    if not above:
        return f"No difference between {quoted(first)} and {quoted(second)} is shown ({_range(gaps)} points; {where})."
    rest = [f"{_range(below)} points below on {len(below)}"] if below else []
    rest += [f"without a difference shown on {len(gaps) - len(different)}"] if len(different) < len(gaps) else []
    head = f"{quoted(first)} is {_range(above)} points above {quoted(second)} on {len(above)} of {where}"
    return f"{head}{', ' if rest else ''}{' and '.join(rest)}."


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
    """The best score beside another one; the sentence says which is higher only if that was tested."""
    name, reached = quoted(other.system), f"{percent(other.accuracy.value)} %"
    found = compared(report, best.set, best.system, other.system, None)
    if found is None:
        return f"beside {name} ({reached}; not compared)"
    size = points(abs(found.difference.value)).lstrip("+")
    side = "above" if found.difference.value > 0 else "below"
    how = "level with" if size == "0.0" else f"{size} points {side}"
    return f"{how} {name} ({reached}; {verdict(found)})"


def _floor(report: Report, facts: SetFacts, best: Score) -> list[str]:
    """What the controls reach."""
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
