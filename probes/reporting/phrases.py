"""Figures and names as text for people, the same in every view."""

import json
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any

from pretrain.tools.visible import visible
from probes.results import CUT_WORDS, Comparison, Estimate, Report, Score

POOLINGS = {"last": "last token", "mean": "mean of tokens", "cls": "first token", "pred": "last [PRED] token"}
CONTROLS = {"tfidf": "TF-IDF words", "majority": "majority class"}
NONE = "–"


def is_control(system: str) -> bool:
    """Whether a system is no model."""
    return system in CONTROLS or system.startswith(CUT_WORDS)


def percent(share: float) -> str:
    """A share in percent with one digit, without the sign."""
    return f"{100 * share:.1f}"


def interval(estimate: Estimate, joined: str = "–") -> str:
    """Both ends in percent."""
    return f"{percent(estimate.low)}{joined}{percent(estimate.high)}"


def over_seeds(scores: Sequence[Score]) -> tuple[float, float]:
    """Mean and standard deviation of the accuracy of one architecture's random weights."""
    values = [score.accuracy.value for score in scores]
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def points(difference: float) -> str:
    """A difference of shares in percentage points, signed with a true minus."""
    text = f"{100 * difference:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def p_value(value: float) -> str:
    """A p-value with two or three digits."""
    if value < 0.001:
        return "< .001"
    return "1" if value >= 0.995 else f"{value:.3f}"[1:] if value < 0.1 else f"{value:.2f}"[1:]


def p_equals(value: float) -> str:
    """A p-value within a sentence."""
    text = p_value(value)
    return f"p {text}" if text.startswith("<") else f"p = {text}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """A number and what it counts."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def pooling_title(pooling: str | None) -> str:
    """A pooling for people."""
    return NONE if pooling is None else POOLINGS.get(pooling, pooling)


def layer_title(report: Report, system: str, layer: int | None) -> str:
    """Name of a layer, such as ``layer 5 of 6``."""
    if layer is None:
        return NONE
    if layer == 0:
        return "the embeddings"
    last = next((model.layers - 1 for model in report.models if model.name == system), None)
    return f"layer {layer}" if last is None else f"layer {layer} of {last}"


def layer_and_pooling(score: Score) -> str:
    """Layer and pooling in short, such as ``L5 mean``."""
    return "" if score.layer is None else f"L{score.layer} {score.pooling}"


def system_title(system: str) -> str:
    """A system for people."""
    if system.startswith(CUT_WORDS):
        return f"TF-IDF words read by {visible(system.removeprefix(CUT_WORDS))}"
    return CONTROLS.get(system, visible(system))


def quoted(system: str) -> str:
    """A system within a sentence: a model's name between backticks."""
    if system.startswith(CUT_WORDS):
        return f"TF-IDF words of what {quoted(system.removeprefix(CUT_WORDS))} reads"
    return CONTROLS.get(system) or f"`{visible(system).replace('`', chr(39))}`"


def verdict(comparison: Comparison) -> str:
    """The verdict of a comparison, with its corrected p-value."""
    found = "different" if comparison.different else "no difference shown"
    return f"{found}, {p_equals(comparison.adjusted)} after Holm"


def as_text(value: Any) -> str:
    """The value of a setting."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def moment(iso: str) -> str:
    """An ISO time to the minute."""
    return iso[:16].replace("T", " ")
