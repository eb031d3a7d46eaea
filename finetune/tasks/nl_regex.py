"""Descriptions to regexes, compared as strings and as languages."""

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.tasks.confined import confined
from finetune.tasks.task import Example, Task, Verdict
from finetune.tasks.untrusted import Failed, OverLimit
from pretrain.regular_languages import MAX_STATES, RegexSyntaxError
from pretrain.regular_languages.syntax import parse
from pretrain.sources.columns import Problem

_TRIVIAL: Final = {"matches nothing": "~(.*)", "matches every line": ".*"}


class NlRegex(Task):
    r"""Equality of regexes of the language that ``pretrain.regular_languages`` defines, that of NL-RX.

    Scores: ``exact``, as strings without white space around; ``semantic``, whether both match the same lines; and
    ``starts_with_gold``, whether the answer begins with the gold regex, which is what LLM-JEPA reports: only to
    compare with it, for whatever follows counts for nothing.

    Same meaning is decidable for all of this language (``&``, ``~`` and ``\b`` included) and decided exactly, but the
    automata may be too large: then ``semantic`` is None. An answer that is no regex of the language (a syntax error,
    or anchors, back references, look-around, which have no single meaning in it) is wrong. No answer is ever compiled
    by ``re``, so none makes a matcher backtrack, and it is compared in a process that is killed after ``seconds``.
    """

    main: ClassVar[str] = "exact"

    task: Literal["nl_regex"] = "nl_regex"
    max_new_tokens: int = Field(128, ge=1, description="Most tokens of an answer, the stop token included.")
    semantic: bool = Field(True, description="Whether meanings are compared; without it, gold answers may be anything.")
    max_states: int = Field(MAX_STATES, ge=1, description="States of an automaton beyond which nothing is decided.")
    seconds: float = Field(10, gt=0, le=600, description="CPU time beyond which nothing is decided.")

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        gold = self._string(row, "code")
        if self.semantic:
            try:
                parse(gold.strip())
            except RegexSyntaxError as error:
                raise Problem(f"the answer is no regex of NL-RX ({error}); correct it or set semantic: false") from None
        return self._text(row), gold, {}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer; a blank one is never correct."""
        gold, given = example.gold.strip(), output.strip()
        scores: dict[str, float | None] = {"exact": float(given == gold)}
        if self.semantic:
            scores["semantic"], reason = self._meaning(gold, given)
        else:
            reason = "exact" if given == gold else "other string"
        scores["starts_with_gold"] = float(given.startswith(gold))
        return Verdict(given == gold, reason, scores)

    def trivial_gold(self, example: Example) -> str | None:
        """``matches nothing`` or ``matches every line``: any contradiction, or tautology, then has the same meaning."""
        if not self.semantic:
            return None
        for reason, regex in _TRIVIAL.items():
            try:
                if confined(self.seconds).differ(example.gold.strip(), regex, self.max_states) is None:
                    return reason
            except OverLimit:
                continue
        return None

    def _meaning(self, gold: str, given: str) -> tuple[float | None, str]:
        if given == gold:
            return 1.0, "exact"
        if not given:
            return 0.0, "no answer"
        try:
            line = confined(self.seconds).differ(gold, given, self.max_states)
        except Failed as error:
            return 0.0, f"no regex: {error}"
        except OverLimit as error:
            return None, f"not decided: {error}"
        return (1.0, "same language") if line is None else (0.0, f"other language: they differ on {line[:40]!r}")
