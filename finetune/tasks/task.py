"""A task: where its examples come from, how it is prompted, and how an answer is judged."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion
from pretrain.sources.columns import Problem, look_up, text_of
from pretrain.sources.jsonl import objects
from pretrain.sources.lines import TextSource
from pretrain.sources.opening import local_path
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow

_LONGEST_LINE: Final = 5000


@dataclass(frozen=True, slots=True)
class Example:
    """One question with its answer.

    Attributes:
        id: File name and line, as in ``test.jsonl:17``; unique within the file.
        prompt: Exactly the text that the model is asked about (the first view).
        gold: The answer as the model should write it (the second view).
        facts: What else judging needs; JSON values.
    """

    id: str
    prompt: str
    gold: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict of a task on one answer.

    Attributes:
        correct: By the task's main metric.
        reason: Why, in a few words for people.
        scores: Metric to value from 0 to 1; None: not decided, to be counted and not averaged.
    """

    correct: bool
    reason: str
    scores: Mapping[str, float | None]


class Task(BaseModel):
    """A task; a new one is a subclass in a file of its own and a line in ``__init__.py``.

    A subclass adds a literal ``task``, its settings, ``main`` and ``judge``; ``_read`` may be overridden.

    Files are JSON Lines, one object a line, plain or compressed, with the fields that ``fields`` names; a line with the
    field ``messages`` and no text field is a chat of the published LLM-JEPA sets, whose one user message is the text
    and whose one assistant message is the answer.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    main: ClassVar[str]
    """Name of the metric in ``Verdict.scores`` that says what is correct."""
    default_fields: ClassVar[Mapping[str, str]] = {"text": "text", "code": "code"}
    """What is read, by the name of the field that it is read from."""

    task: str
    separator: str = Field("\n", description="Between the text and the answer in plain prompts.")
    instruction: str | None = Field(None, description="System message of chat prompts; none: without one.")
    max_new_tokens: int = Field(256, ge=1, description="Most tokens of an answer, the stop token included.")
    fields: dict[str, str] = Field(
        default_factory=dict,
        validate_default=True,
        description="Names of the file's fields where they differ, as in {text: question, code: answer}.",
    )

    @field_validator("fields")
    @classmethod
    def _with_defaults(cls, fields: dict[str, str]) -> dict[str, str]:
        for name in fields.keys() - cls.default_fields.keys():
            raise ValueError(f"this task reads no {name!r}; {suggestion(name, cls.default_fields)}")
        return {**cls.default_fields, **fields}

    def examples(self, path: str | Path) -> list[Example]:
        """Reads the examples of a file in the order of its lines.

        Raises:
            DiptychError: The file cannot be read, has no example, or a line is none (named as file:line).
        """
        return list(self._examples(path))

    def judge(self, example: Example, output: str) -> Verdict:
        """Judges an answer.

        Args:
            example: What was asked.
            output: The generated text up to the stop token, without special tokens; untrusted, any string.
        """
        raise NotImplementedError

    def labels(self, examples: Sequence[Example] = ()) -> tuple[str, ...] | None:
        """The possible answers of a classification, whose likelihoods are then scored as well; None: no classification.

        Args:
            examples: Where the settings do not name the answers, they are those of these examples.
        """
        return None

    def trivial_gold(self, example: Example) -> str | None:
        """Why the gold answer says little about the question, so that many wrong answers mean the same; None: it does.

        Evaluations report their figures with and without such examples.
        """
        return None

    def summary(
        self,
        examples: Sequence[Example],
        verdicts: Sequence[Verdict],
        outputs: Sequence[str],
        labels: Sequence[str],
    ) -> dict[str, float]:
        """Metrics over some examples that are not means of scores.

        Args:
            examples: All of an evaluation, or some of them.
            verdicts: One for each example, as are ``outputs``.
            outputs: What was judged.
            labels: ``labels`` of all examples of the evaluation.
        """
        return {}

    def _read(self, row: Mapping[str, Any]) -> tuple[str, str, dict[str, Any]]:
        """Prompt, gold and facts of a row; raises ``Problem``."""
        return self._text(row), self._string(row, "code"), {}

    def _text(self, row: Mapping[str, Any]) -> str:
        return self._string(row, "text")

    def _string(self, row: Mapping[str, Any], name: str) -> str:
        return text_of(self._value(row, name), name)

    def _value(self, row: Mapping[str, Any], name: str) -> Any:
        field = self.fields[name]
        value = look_up(row, field)
        if value is None:
            found = ", ".join(row) or "no fields"
            raise Problem(f"no field {field!r}; the line has {found}; name it in the task's fields, as {name}: FIELD")
        return value

    def _examples(self, path: str | Path) -> Iterator[Example]:
        path = str(path)
        local = local_path(path)
        if local is not None and not Path(local).is_file():
            what = "is a folder; name a file of it" if Path(local).is_dir() else "no such file; check the task's data"
            raise DiptychError(f"{path}: {what}")
        name, found = Path(path).name, False
        for item in objects(TextSource(), Part(path, fingerprint="", size=0)):
            if isinstance(item, BadRow):
                raise DiptychError(str(item))
            number, row = item
            try:
                prompt, gold, facts = self._read(self._from_chat(row))
            except Problem as problem:
                raise DiptychError(f"{path}:{number}: {problem}") from None
            found = True
            yield Example(f"{name}:{number}", prompt, gold, facts)
        if not found:
            raise DiptychError(f"{path}: no examples; expected JSON Lines, one object a line")

    def _from_chat(self, row: Mapping[str, Any]) -> Mapping[str, Any]:
        """The row with the fields of a task; one that is no chat as it is."""
        messages = row.get("messages")
        if messages is None or look_up(row, self.fields["text"]) is not None:
            return row
        if not isinstance(messages, list) or not all(isinstance(message, dict) for message in messages):
            raise Problem("'messages' is no list of objects")
        fields = dict(row)
        for name, role in (("text", "user"), ("code", "assistant")):
            contents = [message.get("content") for message in messages if message.get("role") == role]
            if len(contents) != 1:
                raise Problem(f"{len(contents)} messages with role {role!r}, expected exactly one")
            fields[self.fields[name]] = contents[0]
        return fields


def first_line(output: str) -> str:
    """The first line of an answer that is not blank, without white space around it; empty where there is none.

    A longer line than any answer is cut, so that judging takes no time.
    """
    return output.strip().partition("\n")[0].strip()[:_LONGEST_LINE]
