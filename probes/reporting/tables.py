"""The tables of a report, the same for the page and for Markdown."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from probes.reporting.balance import class_shares, shifted
from probes.reporting.geometry_charts import MEASURES
from probes.reporting.lookup import clear_best, controls, display_name, models_sharing, random_weights, trained
from probes.reporting.phrases import (
    NONE,
    interval,
    is_control,
    layer_and_pooling,
    over_seeds,
    p_value,
    percent,
    points,
    pooling_title,
)
from probes.results import CUT_WORDS, ModelFacts, Predictions, Report, Score, SetFacts

_OWN = "each at its chosen pooling"
_SENTIMENT = {False: "yes", True: "no (control)", None: "not known"}


@dataclass(frozen=True)
class Cell:
    """One cell.

    Attributes:
        text: Its text.
        note: Smaller lines below it.
        strong: Whether it is bold.
    """

    text: str
    note: str = ""
    strong: bool = False


@dataclass(frozen=True)
class TableRow:
    """One row, with the set and the pooling that it is about."""

    cells: tuple[Cell, ...]
    set: str | None = None
    pooling: str | None = None


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        head: Titles of the columns.
        rows: As many cells each.
        left: Columns of words; the others are of figures.
        groups: Titles above columns and how many columns each spans; empty: none.
        caption: How to read it.
    """

    head: tuple[str, ...]
    rows: tuple[TableRow, ...]
    left: frozenset[int] = frozenset({0})
    groups: tuple[tuple[str, int], ...] = ()
    caption: str = ""


def cells(*texts: str | Cell) -> tuple[Cell, ...]:
    """Cells of texts."""
    return tuple(text if isinstance(text, Cell) else Cell(text) for text in texts)


def main_table(report: Report, pooling: str | None = None) -> Table | None:
    """Sets by systems, at the pooling given or at the one that cross-validation chose."""
    groups: list[tuple[str, list[tuple[str, ...]]]] = [
        ("models", [(model.name,) for model in trained(report)]),
        ("controls", [(name,) for name in controls(report)]),
        ("controls: random weights", random_weights(report)),
    ]
    columns = [names for _, columns in groups for names in columns]
    rows = []
    for facts in report.sets:
        scores = [
            [score for name in names if (score := report.chosen(facts.name, name, _at(name, pooling)))]
            for names in columns
        ]
        if any(scores):
            best = clear_best(report, facts.name, pooling)
            title = Cell(facts.title, "control: not sentiment" if facts.control else "")
            rows.append(TableRow((title, *(_score_cell(found, best) for found in scores)), facts.name))
    if not rows:
        return None
    chosen = "Layer and pooling" if pooling is None else "The layer"
    cut = " TF-IDF words read by a model: of the beginnings of texts that it read, on sets of which it cut some."
    several = " Random weights: mean and standard deviation (sd) over seeds of the weights."
    return Table(
        ("set", *(display_name(report, names[0]).replace(", seed 0", "") for names in columns)),
        tuple(rows),
        groups=tuple((title, len(names)) for title, names in groups if names),
        caption=f"Test accuracy in %, with the 95 % interval over test texts (bootstrap, widened to Wilson's where "
        f"fewer than 10 are wrong or right). {chosen} of each model "
        f"{'were' if pooling is None else 'was'} chosen by cross-validation on the training split. "
        "Bold: best of the row, where a comparison of these very probes finds it different from the next best."
        + (several if any(len(names) > 1 for names in columns) else "")
        + (cut if any(names[0].startswith(CUT_WORDS) for names in columns) else ""),
    )


def _at(system: str, pooling: str | None) -> str | None:
    return None if is_control(system) else pooling


def _score_cell(scores: Sequence[Score], best: str | None) -> Cell:
    """One system, or one architecture's random weights of several seeds."""
    if not scores:
        return Cell(NONE)
    if len(scores) > 1:
        mean, spread = over_seeds(scores)
        return Cell(percent(mean), f"sd {percent(spread)}\n{len(scores)} seeds")
    score = scores[0]
    where = layer_and_pooling(score)
    note = interval(score.accuracy) + (f"\n{where}" if where else "")
    return Cell(percent(score.accuracy.value), note, score.system == best)


def comparison_table(report: Report) -> Table | None:
    """Pairs of systems on the same test examples."""
    rows = [
        TableRow(
            cells(
                Cell(_title(report, one.set), _OWN if one.pooling is None else pooling_title(one.pooling)),
                Cell(display_name(report, one.first), _layer(one.first_layer)),
                Cell(display_name(report, one.second), _layer(one.second_layer)),
                Cell(
                    points(one.difference.value),
                    f"{points(one.difference.low)} to {points(one.difference.high)}",
                    strong=one.different,
                ),
                p_value(one.mcnemar),
                p_value(one.adjusted),
                "different" if one.different else "not shown",
            ),
            one.set,
            one.pooling,
        )
        for one in report.comparisons
    ]
    head = ("set", "first", "second", "points", "McNemar p", "Holm p", "difference")
    caption = (
        "Accuracy of the first minus that of the second on the same test examples, in percentage points with the "
        "paired bootstrap interval; exact McNemar test, p-values corrected for all comparisons (Holm)."
    )
    return _table(head, rows, (0, 1, 2, 6), caption)


def geometry_table(report: Report) -> Table | None:
    """Shape of every representation."""
    measures = [one for one in MEASURES if any(getattr(item, one) is not None for item in report.geometry)]
    rows = [
        TableRow(
            cells(
                item.texts,
                display_name(report, item.model),
                item.pooling,
                str(item.layer),
                *(_measure(measure, getattr(item, measure)) for measure in measures),
            ),
            item.texts if item.texts in {facts.name for facts in report.sets} else None,
            item.pooling,
        )
        for item in report.geometry
    ]
    return _table(("texts", "model", "pooling", "layer", *(MEASURES[one] for one in measures)), rows, (0, 1, 2))


def _measure(measure: str, value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}" if measure == "rankme" else f"{value:.3f}".replace("-", "−")


def score_table(report: Report) -> Table | None:
    """Every probe."""
    rows = []
    for one in report.scores:
        remarks = ["shuffled labels"] * one.shuffled + ["not converged"] * (not one.converged)
        texts = (
            one.set,
            Cell(display_name(report, one.system), ", ".join(remarks)),
            NONE if one.layer is None else str(one.layer),
            one.pooling or NONE,
            str(one.train_size),
            str(one.seeds),
            NONE if one.cv_accuracy is None else percent(one.cv_accuracy),
            percent(one.accuracy.value),
            interval(one.accuracy),
            NONE if one.accuracy.std is None else percent(one.accuracy.std),
            percent(one.macro_f1.value),
            NONE if one.strength is None else f"{one.strength:.3g}",
        )
        rows.append(TableRow(cells(*texts), one.set, one.pooling))
    head = (
        *("set", "system", "layer", "pooling", "train", "seeds", "CV acc.", "accuracy", "95 % interval"),
        *("sd seeds", "macro-F1", "C"),
    )
    return _table(head, rows, (0, 1, 3))


def confusion_table(facts: SetFacts, one: Predictions) -> Table:
    """Counts of gold labels by predicted labels."""
    rows = [
        TableRow(cells(gold, *(f"{count:,}" for count in counts)))
        for gold, counts in zip(facts.label_names, one.confusion, strict=True)
    ]
    return Table(("gold \\ predicted", *facts.label_names), tuple(rows))


def data_table(report: Report) -> Table | None:
    """The labelled sets."""
    rows = [
        TableRow(
            cells(
                Cell(facts.title, facts.name if facts.name != facts.title else ""),
                _SENTIMENT[facts.control],
                str(len(facts.label_names)),
                _with_copies(facts.num_train, facts.train_copies),
                _with_copies(facts.num_test, facts.test_copies),
                Cell(facts.source, f"fingerprint {facts.fingerprint[:12]}"),
            ),
            facts.name,
        )
        for facts in report.sets
    ]
    caption = (
        "Copies: texts that an earlier one of the split equals, case, space and punctuation aside. They are in one "
        "fold of cross-validation, have one shuffled label, are drawn together for intervals, and are one in tests."
    )
    return _table(("set", "sentiment", "classes", "train", "test", "source"), rows, (0, 1, 5), caption)


def class_table(report: Report) -> Table | None:
    """How many examples of each class train and test have."""
    rows = []
    for facts in report.sets:
        moved = shifted(facts)
        for label, name in enumerate(facts.label_names):
            train, test = class_shares(facts, label)
            shares = (
                NONE if train is None else Cell(percent(train), f"{facts.train_counts[label]:,}"),
                Cell(percent(test), f"{facts.test_counts[label]:,}"),
                NONE if train is None else Cell(points(test - train), strong=moved),
            )
            rows.append(TableRow(cells(facts.title, name, *shares), facts.name))
    caption = "Shares of the classes in %, with the numbers of examples. Bold: a marked shift."
    return _table(("set", "class", "train", "test", "points"), rows, (0, 1), caption)


def _with_copies(texts: int, copies: int) -> Cell:
    return Cell(f"{texts:,}", f"{copies:,} {'copy' if copies == 1 else 'copies'}" if copies else "")


def settings_table(report: Report) -> Table | None:
    """What tells the trained models apart: their objective, how long they were trained, and their size."""
    models = trained(report)
    known = any(model.training for model in models)
    columns: list[tuple[str, Callable[[ModelFacts], str | Cell]]] = [
        ("model", lambda model: Cell(display_name(report, model.name), model.run or "")),
        *([("λ", _weight), ("distance", _distance), ("[PRED] tokens", _predictors)] if known else []),
        *([("steps", lambda model: _number(model.step))] if any(model.step for model in models) else []),
        *([("label tokens", lambda model: _number(model.tokens))] if any(model.tokens for model in models) else []),
        ("parameters", lambda model: _number(model.parameters)),
    ]
    rows = [TableRow(cells(*(cell(model) for _, cell in columns))) for model in models]
    caption = (
        "λ: weight of the embedding-prediction loss. distance: what that loss measures between prediction and target. "
        "[PRED] tokens: how many are appended to a text to predict the embedding of its other view."
    )
    left = (0, 2) if known else (0,)
    return _table(tuple(name for name, _ in columns), rows, left, caption if known else "")


def _weight(model: ModelFacts) -> str | Cell:
    weight = model.training.get("objective.lambda")
    return NONE if weight is None else f"{weight:g}" if weight else Cell("0", "next-token loss only")


def _distance(model: ModelFacts) -> str:
    return str(model.training.get("objective.distance", NONE)) if model.training.get("objective.lambda") else NONE


def _predictors(model: ModelFacts) -> str:
    return str(model.training.get("objective.predictors", NONE)) if model.training.get("objective.lambda") else NONE


def _number(value: int | None) -> str:
    return NONE if value is None else f"{value:,}"


def model_table(report: Report) -> Table | None:
    """The models and their twins."""
    rows = []
    for model in report.models:
        whose = ", ".join(models_sharing(report, model.name)) or model.random_twin_of
        seed = f", seed {model.random_seed}" if model.random_seed is not None else ""
        texts = (
            Cell(display_name(report, model.name), f"random weights of {whose}{seed}" if model.random_twin_of else ""),
            model.architecture,
            str(model.layers - 1),
            str(model.width),
            " ".join([*model.prefix, "text", *model.suffix]),
            Cell(model.path, f"fingerprint {model.fingerprint[:12]}"),
        )
        rows.append(TableRow(cells(*texts)))
    head = ("model", "architecture", "blocks", "width", "reads", "from")
    caption = "Reads: a text with the tokens that the model's tokenizer adds to it."
    return _table(head, rows, (0, 1, 4, 5), caption)


def truncation_table(report: Report) -> Table | None:
    """Texts that were longer than a model's context."""
    sets = {facts.name for facts in report.sets}
    rows = [
        TableRow(cells(display_name(report, model), _title(report, name), f"{count:,}"), name if name in sets else None)
        for model, by_set in report.truncated.items()
        for name, count in by_set.items()
        if count
    ]
    return _table(("model", "texts", "texts cut"), rows, (0, 1))


def wrong_table(facts: SetFacts, one: Predictions, most: int | None = None) -> Table | None:
    """Examples that a system gets wrong."""
    names = facts.label_names
    rows = [
        TableRow(cells(wrong.text, names[wrong.gold], names[wrong.predicted], f"{wrong.probability:.2f}"))
        for wrong in one.wrong[:most]
    ]
    return _table(("text", "gold", "predicted", "probability"), rows, (0, 1, 2))


def where(one: Predictions) -> str:
    """The representation of predictions, in words."""
    return "" if one.layer is None else f"layer {one.layer}, {pooling_title(one.pooling)}"


def _title(report: Report, set_name: str) -> str:
    return next((facts.title for facts in report.sets if facts.name == set_name), set_name)


def _layer(layer: int | None) -> str:
    return "" if layer is None else f"layer {layer}"


def _table(head: tuple[str, ...], rows: Iterable[TableRow], left: Iterable[int], caption: str = "") -> Table | None:
    found = tuple(rows)
    return Table(head, found, frozenset(left), caption=caption) if found else None
