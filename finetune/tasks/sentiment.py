"""Classification as generation: the model writes the label's word."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, field_validator

from finetune.tasks.task import Example, Task, Verdict, first_line
from finetune.tasks.words import folded, without_punctuation_around
from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import Problem


def _with_text_keys(answers: object) -> object:
    """YAML reads the label 0 as a number."""
    return {str(label): word for label, word in answers.items()} if isinstance(answers, Mapping) else answers


class Sentiment(Task):
    """One word of a few.

    Scores: ``accuracy``. Over all: ``macro_f1``, the mean over the classes that occur among the golds or the answers,
    and ``unparsed``, the share of answers that are no label.

    An answer is a label if its first line is the label's word; the case of letters, and punctuation and white space
    around it, do not count (``words``). Anything else is no label and wrong, also where it holds a label's word ("not
    good").
    """

    main: ClassVar[str] = "accuracy"
    default_fields: ClassVar[Mapping[str, str]] = {"text": "text", "code": "label_name"}

    task: Literal["sentiment"] = "sentiment"
    max_new_tokens: int = Field(16, ge=1, description="Most tokens of an answer, the stop token included.")
    answers: Annotated[dict[str, str], BeforeValidator(_with_text_keys)] | None = Field(
        None,
        min_length=2,
        description="Label in the file to the word that the model writes, as in {0: bad, 1: good}; none: the labels "
        "of the file are the words, and the labels that the file holds are the possible answers.",
    )

    @field_validator("answers")
    @classmethod
    def _are_distinct(cls, answers: dict[str, str] | None) -> dict[str, str] | None:
        words = [_word(word) for word in (answers or {}).values()]
        if "" in words or len(set(words)) < len(words):
            raise ValueError("two labels have the same word (case and punctuation aside), or one has none")
        return answers

    def examples(self, path: str | Path) -> list[Example]:
        """Reads the examples of a file; see ``Task.examples``. Labels that answers cannot tell apart are refused."""
        examples = super().examples(path)
        words: dict[str, str] = {}
        for example in examples:
            if (other := words.setdefault(_word(example.gold), example.gold)) != example.gold:
                raise DiptychError(
                    f"{path}: the labels {other!r} and {example.gold!r} differ only in case or punctuation, which do "
                    "not count in answers; give them other words in the task's answers"
                )
        return examples

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        label = self._value(row, "code")
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            raise Problem(f"label field {self.fields['code']!r} is no string or integer but {label!r}")
        label = str(label).strip()
        if self.answers is None:
            return self._text(row), label, {"label": label}
        if label not in self.answers:
            raise Problem(f"label {label!r} is none of the task's answers: {', '.join(self.answers)}")
        return self._text(row), self.answers[label], {"label": label}

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer."""
        given = _word(first_line(output))
        correct = given == _word(example.gold)
        reason = "same label" if correct else f"other answer: {given[:40]!r}" if given else "no answer"
        return Verdict(correct, reason, {"accuracy": float(correct)})

    def labels(self, examples: Sequence[Example] = ()) -> tuple[str, ...] | None:
        """The words of ``answers`` in their order, or else the golds of the examples, sorted; none without either."""
        if self.answers is not None:
            return tuple(self.answers.values())
        return tuple(sorted({example.gold for example in examples})) or None

    def summary(
        self,
        examples: Sequence[Example],
        verdicts: Sequence[Verdict],
        outputs: Sequence[str],
        labels: Sequence[str],
    ) -> dict[str, float]:
        """``macro_f1`` and ``unparsed``."""
        known = {_word(word) for word in labels}
        golds = [_word(example.gold) for example in examples]
        given = [word if (word := _word(first_line(output))) in known else None for output in outputs]
        f1 = []
        for label in {*golds, *given} - {None}:
            hits = sum(a == b == label for a, b in zip(golds, given, strict=True))
            f1.append(2 * hits / (golds.count(str(label)) + given.count(label)))
        if not f1:
            return {}
        return {"macro_f1": sum(f1) / len(f1), "unparsed": given.count(None) / len(given)}


def _word(text: str) -> str:
    """The form in which labels are compared; a label of punctuation alone, such as "+", stays as it is."""
    text = " ".join(folded(text).split())
    return without_punctuation_around(text) or text
