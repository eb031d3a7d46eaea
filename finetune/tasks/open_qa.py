"""Short answers to open questions, compared as SQuAD and NQ-Open do."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal

from pydantic import Field

from finetune.tasks.task import Example, Task, Verdict, first_line
from finetune.tasks.words import folded, is_punctuation
from pretrain.sources.columns import Problem, wordings

_ARTICLES: Final = frozenset({"a", "an", "the"})


class OpenQa(Task):
    """Equality with one of the gold answers after lower-casing and without punctuation, articles and extra spaces.

    Scores: ``match``, and ``f1`` of the words with the most similar gold answer. The answer is the first line.

    Several gold answers are a list in the file, or one string that ``answer_separator`` cuts; the first of them is
    ``Example.gold``.
    """

    main: ClassVar[str] = "match"

    task: Literal["open_qa"] = "open_qa"
    max_new_tokens: int = Field(48, ge=1, description="Most tokens of an answer, the stop token included.")
    answer_separator: str | None = Field(
        None, min_length=1, description="Between several gold answers in one string, as '; ' in nq_open; none: one."
    )

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        texts = wordings(self._value(row, "code"), "code")
        if self.answer_separator is not None:
            texts = tuple(part for text in texts for part in text.split(self.answer_separator))
        answers = [text.strip() for text in texts if text.strip()]
        if not answers:
            raise Problem("no answer between the separators")
        return self._text(row), answers[0], {"answers": answers}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer; a blank one is never correct."""
        given = _words(first_line(output))
        golds = [_words(answer) for answer in example.facts["answers"]]
        match = bool(given) and given in golds
        scores = {"match": float(match), "f1": max(_f1(given, gold) for gold in golds)}
        if not given:
            return Verdict(False, "no answer", scores)
        return Verdict(match, "match" if match else "other answer", scores)


def _words(text: str) -> list[str]:
    """The words that are compared; none only where the text is blank, lest a blank answer equals the gold one "The"."""
    text = folded(text)
    plain = "".join(character for character in text if not is_punctuation(character)).split()
    return [word for word in plain if word not in _ARTICLES] or plain or text.split()


def _f1(given: list[str], gold: list[str]) -> float:
    common = (Counter(given) & Counter(gold)).total()
    return 2 * common / (len(given) + len(gold)) if common else 0.0
