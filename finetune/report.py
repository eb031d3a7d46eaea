"""The figures of a finished evaluation, and a table of them for people."""

import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from finetune import scoring
from finetune.generations import Generations
from finetune.tasks import Example, Task, Verdict
from pretrain import __version__

_READINGS = {"generated": "", "likelihood": " (likeliest label)", "likelihood_per_token": " (likeliest per token)"}


@dataclass(frozen=True)
class _Reading:
    """One reading of the model's answers, with their verdicts."""

    outputs: list[str]
    verdicts: list[Verdict]


def report(task: Task, store: Generations, training: Sequence[Example] | None) -> dict[str, Any]:
    """The figures of an evaluation.

    Args:
        task: The task.
        store: Its examples and a record of each.
        training: What the model was trained on: the examples that are not among it are scored beside all; None: not
            known.

    Returns:
        JSON values: metrics of all examples, of those not in training, and of those whose gold answer is not trivial
        (see ``Task.trivial_gold``; None where none is), each by reading (the generated text; for a classification also
        the likeliest label, as a whole and per token), and what happened.
    """
    records = [store.records[number] for number in range(len(store.examples))]
    readings = _readings(task, store)
    lengths = {key: [record[key] for record in records] for key in ("prompt_tokens", "new_tokens")}
    result: dict[str, Any] = {
        "main": task.main,
        "all": _figures(task, store, readings, range(len(records))),
        "leak_free": None,
        "without_trivial_golds": None,
        "reasons": dict(Counter(record["reason"].partition(":")[0] for record in records).most_common()),
        "stop_rate": sum(record["stopped"] for record in records) / len(records),
        **{
            key: {"mean": sum(found) / len(found), "shortest": min(found), "longest": max(found)}
            for key, found in lengths.items()
        },
        "bootstrap": {"level": scoring.LEVEL, "seed": scoring.SEED},
        "versions": {
            "diptych": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "transformers", "tokenizers")},
        },
    }
    if training is not None:
        kinds = scoring.leaks(store.examples, training)
        result["leak_free"] = {
            "training_examples": len(training),
            "same_prompt": len(kinds) - kinds.count(None),
            "same_pair": kinds.count("pair"),
            **_figures(task, store, readings, [number for number, kind in enumerate(kinds) if kind is None]),
        }
    trivial = [task.trivial_gold(example) for example in store.examples]
    if any(trivial):
        result["without_trivial_golds"] = {
            "left_out": dict(Counter(reason for reason in trivial if reason).most_common()),
            **_figures(task, store, readings, [number for number, reason in enumerate(trivial) if not reason]),
        }
    return result


def _readings(task: Task, store: Generations) -> dict[str, _Reading]:
    records = [store.records[number] for number in range(len(store.examples))]
    verdicts = [Verdict(record["correct"], record["reason"], record["scores"]) for record in records]
    readings = {"generated": _Reading([record["output"] for record in records], verdicts)}
    if "likelihoods" in records[0]:
        for name, key in (("likelihood", "total"), ("likelihood_per_token", "mean")):
            outputs = [_likeliest(record["likelihoods"], key) for record in records]
            judged = [task.judge(example, output) for example, output in zip(store.examples, outputs, strict=True)]
            readings[name] = _Reading(outputs, judged)
    return readings


def _likeliest(likelihoods: Mapping[str, Mapping[str, float]], key: str) -> str:
    return max(likelihoods, key=lambda label: likelihoods[label][key])


def _figures(task: Task, store: Generations, readings: Mapping[str, _Reading], chosen: Sequence[int]) -> dict[str, Any]:
    figures: dict[str, Any] = {"examples": len(chosen)}
    examples = [store.examples[number] for number in chosen]
    labels = task.labels(store.examples) or ()  # of a subset's golds, some answers would be no label
    for name, reading in readings.items():
        verdicts = [reading.verdicts[number] for number in chosen]
        outputs = [reading.outputs[number] for number in chosen]
        found = scoring.metrics(task, examples, verdicts, outputs, labels)
        figures[name] = {metric: asdict(value) for metric, value in found.items()}
    return figures


def table(result: Mapping[str, Any]) -> str:
    """Lays out what ``evaluation.json`` holds.

    Args:
        result: Its content.

    Returns:
        Lines; figures in percent with their 95 % intervals.
    """
    columns = {"all": result["all"]}
    if result["leak_free"] is not None:
        columns["not in training"] = result["leak_free"]
    if result["without_trivial_golds"] is not None:
        columns["without trivial golds"] = result["without_trivial_golds"]
    rows = [["", *(f"{name} ({figures['examples']:,})" for name, figures in columns.items())]]
    for reading, label in _READINGS.items():
        for name in result["all"].get(reading, {}):
            mark = " *" if name == result["main"] else ""
            cells = [_cell(figures[reading].get(name)) for figures in columns.values()]
            rows.append([f"{name}{label}{mark}", *cells])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    reasons = ", ".join(f"{name} {count:,}" for name, count in list(result["reasons"].items())[:8])
    new = result["new_tokens"]
    notes = []
    if result["without_trivial_golds"] is not None:
        left_out = result["without_trivial_golds"]["left_out"]
        notes.append(f"trivial golds: {', '.join(f'{reason} {count:,}' for reason, count in left_out.items())}")
    return "\n".join(
        [
            f"{result['task']} on {result['data']}, style {result['style']}; in percent, * the main metric",
            "",
            *lines,
            "",
            f"stopped by themselves {100 * result['stop_rate']:.1f} %; new tokens {new['mean']:.1f} on average, "
            f"{new['longest']:,} at most",
            f"verdicts: {reasons}",
            *notes,
        ]
    )


def _cell(metric: Mapping[str, Any] | None) -> str:
    if metric is None or metric["value"] is None:
        return "not decided"
    text = f"{100 * metric['value']:5.1f}"
    if metric["low"] is not None:
        text += f"  [{100 * metric['low']:.1f}, {100 * metric['high']:.1f}]"
    if metric["undecided"]:
        text += f"  {metric['undecided']:,} undecided"
    return text
