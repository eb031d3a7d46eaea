"""GSM8K: word problems whose worked solution ends with ``#### NUMBER``."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.tasks.numbers import first_number, last_number
from finetune.tasks.task import Example, Task, Verdict
from pretrain.sources.columns import Problem

_MARK: Final = "####"


class Gsm8k(Task):
    """The final number of a solution, compared exactly: ``1,080.00``, ``$1080`` and ``2160/2`` are the same.

    Scores: ``number``, of the number after ``####`` or else the last one of the answer; ``strict``, where only the
    former counts. Of several ``####`` the first counts, for what comes after its line is no longer the answer.

    A unit or a percent sign after the number does not count. A number is read whole (``3 1/2`` is 3.5) or not at all:
    an answer whose final number is written in another way (``10:30``, ``3-4``, ``5 feet 6 inches``) is wrong, and a
    solution is refused. See ``finetune/tasks/numbers.py``.
    """

    main: ClassVar[str] = "number"

    task: Literal["gsm8k"] = "gsm8k"
    max_new_tokens: int = Field(512, ge=1, description="Most tokens of an answer, the stop token included.")

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        gold = self._string(row, "code")
        if _final(gold) is None:
            raise Problem("the answer holds no number that can be read; expected one, after #### or at the end")
        return self._text(row), gold, {}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer."""
        gold, final, is_marked = _final(example.gold), _final(output), _marked(output)[0]
        right = final is not None and final == gold
        scores = {"number": float(right), "strict": float(right and is_marked)}
        if final is None:
            return Verdict(False, "no number that can be read", scores)
        if not right:
            return Verdict(False, f"other number: {_shown(final)}", scores)
        return Verdict(True, "same number" if is_marked else f"same number, without {_MARK}", scores)


def _marked(text: str) -> tuple[bool, Fraction | None]:
    """Whether a number stands after the mark, and its value; None: it is written in a way that is not read."""
    return first_number(text.partition(_MARK)[2].lstrip().partition("\n")[0])


def _final(text: str) -> Fraction | None:
    is_marked, number = _marked(text)
    return number if is_marked else last_number(text)


def _shown(number: Fraction) -> str:
    return str(number) if number.denominator == 1 else f"{float(number):g}"
