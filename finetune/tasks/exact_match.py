"""Any task whose answers are right or wrong as strings: for the user's own JSON Lines."""

from typing import ClassVar, Literal

from pydantic import Field

from finetune.tasks.task import Example, Task, Verdict


class ExactMatch(Task):
    """Equality of strings.

    Scores: ``exact``.
    """

    main: ClassVar[str] = "exact"

    task: Literal["exact_match"] = "exact_match"
    ignore_case: bool = Field(False, description="Whether letters of either case are the same.")
    whitespace: Literal["exact", "strip", "collapse"] = Field(
        "strip", description="exact: it counts; strip: not at the ends; collapse: any amount of it is one space, too."
    )

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer; a blank one is never correct."""
        if not output.strip():
            return Verdict(False, "no answer", {"exact": 0.0})
        equal = self._same(output) == self._same(example.gold)
        return Verdict(equal, "exact" if equal else "other answer", {"exact": float(equal)})

    def _same(self, text: str) -> str:
        if self.whitespace == "strip":
            text = text.strip()
        elif self.whitespace == "collapse":
            text = " ".join(text.split())
        return text.casefold() if self.ignore_case else text
