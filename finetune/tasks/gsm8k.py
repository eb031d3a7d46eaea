"""GSM8K: word problems whose worked solution ends with ``#### NUMBER``."""

import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.tasks.task import Example, Task, Verdict
from pretrain.sources.columns import Problem

_MARK: Final = "####"

# Beyond them no answer is sensible and judging becomes slow: characters of a number, and of the end of an answer where
# one is looked for.
_MAX_CHARACTERS: Final = 60
_LONGEST_END: Final = 10_000

# A minus after a letter, digit or parenthesis is a difference. A comma is part of a number before exactly three digits.
_NUMBER: Final = re.compile(
    r"(?P<sign>(?<![\w)])[-−])?[$€£¥]?"
    r"(?P<above>[0-9]+(?:,[0-9]{3}(?![0-9]))*(?:\.[0-9]+)?|\.[0-9]+)(?:/(?P<below>[0-9]+))?"
)


class Gsm8k(Task):
    """The final number of a solution, compared exactly: ``1,080.00``, ``$1080`` and ``2160/2`` are the same.

    Scores: ``number``, of the number after ``####`` or else the last one of the answer; ``strict``, where only the
    former counts. Of several ``####`` the first counts, for what comes after its line is no longer the answer.
    """

    main: ClassVar[str] = "number"

    task: Literal["gsm8k"] = "gsm8k"
    max_new_tokens: int = Field(512, ge=1, description="Most tokens of an answer, the stop token included.")

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        gold = self._string(row, "code")
        if _final(gold) is None:
            raise Problem("the answer holds no number; expected one, after #### or at the end")
        return self._text(row), gold, {}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer."""
        gold, marked, final = _final(example.gold), _marked(output), _final(output)
        right = final is not None and final == gold
        scores = {"number": float(right), "strict": float(right and marked is not None)}
        if final is None:
            return Verdict(False, "no number", scores)
        if not right:
            return Verdict(False, f"other number: {_shown(final)}", scores)
        return Verdict(True, "same number" if marked is not None else f"same number, without {_MARK}", scores)


def _marked(text: str) -> Fraction | None:
    found = _NUMBER.match(text.partition(_MARK)[2].lstrip())
    return None if found is None else _value(found)


def _final(text: str) -> Fraction | None:
    number = _marked(text)
    if number is None:
        for found in _NUMBER.finditer(text[-_LONGEST_END:]):
            number = _value(found)
    return number


def _value(found: re.Match[str]) -> Fraction | None:
    above, below = found["above"].replace(",", ""), found["below"] or "1"
    if len(above) + len(below) > _MAX_CHARACTERS or not int(below):
        return None
    return Fraction(above) / int(below) * (-1 if found["sign"] else 1)


def _shown(number: Fraction) -> str:
    return str(number) if number.denominator == 1 else f"{float(number):g}"
