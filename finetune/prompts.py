"""The constant tokens around a prompt's text and its answer: plain, or by the tokenizer's chat template.

Training and generation put the same ids together, ``lead + text + join + answer + stop[0]``, so they agree token by
token. Text, answer and instruction are encoded on their own: a special token spelt out in one stays ordinary text.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, Protocol

from pretrain.data.tokenizer import Tokenizer
from pretrain.runtime.errors import DiptychError

Style = Literal["plain", "chat"]

_TEXT, _ANSWER, _INSTRUCTION = "Text7f3a9c", "Answer7f3a9c", "Instruction7f3a9c"

# 26 July 2024, the date that Llama's own template falls back to. A macro, because a template sees no callable that is
# handed to it (transformers 5.23), and a name of the template's own goes before the library's strftime_now.
_DATE = "26 Jul 2024"
_DIRECTIVES = {
    **{"%Y": "2024", "%y": "24", "%B": "July", "%b": "Jul", "%m": "07", "%-m": "7", "%d": "26", "%-d": "26"},
    **{"%j": "208", "%A": "Friday", "%a": "Fri", "%H": "00", "%I": "12", "%M": "00", "%S": "00", "%p": "AM"},
}
_FIXED_CLOCK = "{%- macro strftime_now(format) -%}{{- format" + "".join(
    f" | replace({directive!r}, {value!r})" for directive, value in _DIRECTIVES.items()
)
_FIXED_CLOCK += " -}}{%- endmacro -%}"


class PromptSettings(Protocol):
    """The settings of a task that its prompts depend on."""

    @property
    def separator(self) -> str:
        """Text between prompt and answer, style plain; may be empty."""

    @property
    def instruction(self) -> str | None:
        """What the model is told before the prompt, style chat; None: nothing."""


@dataclass(frozen=True)
class Frame:
    """Constant token ids around the text and the answer.

    Attributes:
        lead: Before the text; starts with bos, which it holds once.
        join: Between text and answer.
        stop: Each ends an answer; the first is the one that is trained.
    """

    lead: tuple[int, ...]
    join: tuple[int, ...]
    stop: tuple[int, ...]

    def prompt(self, text: Sequence[int], room: int | None = None) -> list[int]:
        """The ids that an answer follows.

        Args:
            text: Ids of the prompt's own text.
            room: Most ids in all; of a longer text the last ones stay. None: no limit.
        """
        if room is not None and (kept := room - len(self.lead) - len(self.join)) < len(text):
            text = text[len(text) - max(0, kept) :]
        return [*self.lead, *text, *self.join]


def make_frame(tokenizer: Tokenizer, style: Style, settings: PromptSettings, *, bos: bool = True) -> Frame:
    """Builds the frame of a task's prompts.

    Args:
        tokenizer: Its chat template is used by style chat.
        style: plain: bos, text, separator, answer, eos. chat: one user's turn and one assistant's turn; the
            instruction is the system message or, where the template takes none, the start of the user's turn. No
            template sees the day: the date is always 26 July 2024.
        settings: The task.
        bos: False for a model that never saw a bos (such as Qwen's): then the frame has none.

    Raises:
        DiptychError: Style chat, and the tokenizer has no chat template, or one that changes texts.
    """
    first = (tokenizer.bos,) if bos else ()
    if style == "plain":
        return Frame(first, tuple(tokenizer.encode_batch([settings.separator])[0]), (tokenizer.eos,))
    before, between, after = _cut(tokenizer, settings.instruction)
    lead = _encode(tokenizer, before, settings.instruction)
    while lead and lead[0] == tokenizer.bos:
        lead.pop(0)
    end = _turn_end(tokenizer, _encode(tokenizer, after, None))
    stop = (tokenizer.eos,) if end is None else tuple(dict.fromkeys((end, tokenizer.eos)))
    return Frame((*first, *lead), tuple(_encode(tokenizer, between, None)), stop)


def _cut(tokenizer: Tokenizer, instruction: str | None) -> tuple[str, str, str]:
    """What the chat template writes before the text, between text and answer, and after the answer."""
    if not tokenizer.hf.chat_template:
        raise DiptychError("style: chat: the tokenizer has no chat template; use style plain")
    text = {"role": "user", "content": _TEXT}
    answer = {"role": "assistant", "content": _ANSWER}
    rendered = None
    if instruction is not None:
        with suppress(DiptychError):  # the template takes no system message
            rendered = _render(tokenizer, [{"role": "system", "content": _INSTRUCTION}, text, answer])
        if rendered is None or rendered.count(_INSTRUCTION) != 1:
            text["content"] = f"{_INSTRUCTION}\n\n{_TEXT}"
            rendered = None
    if rendered is None:
        rendered = _render(tokenizer, [text, answer])
    wanted = [_TEXT, _ANSWER] if instruction is None else [_INSTRUCTION, _TEXT, _ANSWER]
    places = [rendered.find(part) for part in wanted]
    if any(rendered.count(part) != 1 for part in wanted) or places != sorted(places):
        raise DiptychError(
            "style: chat: the tokenizer's chat template does not write instruction, text and answer once each in this "
            "order; use style plain"
        )
    before, rest = rendered.split(_TEXT)
    between, after = rest.split(_ANSWER)
    return before, between, after


def _render(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
    try:
        rendered: str = tokenizer.hf.apply_chat_template(
            messages,
            chat_template=_FIXED_CLOCK + tokenizer.hf.get_chat_template(),
            tokenize=False,
            date_string=_DATE,
            enable_thinking=False,
        )
    except Exception as error:  # a template is code and raises all kinds
        message = " ".join(str(error).split())
        raise DiptychError(f"style: chat: the tokenizer's chat template fails: {message}; use style plain") from error
    return rendered


def _encode(tokenizer: Tokenizer, written: str, instruction: str | None) -> list[int]:
    """Ids of what the template wrote, its special tokens as such, with the instruction as ordinary text."""
    ids: list[int] = []
    for number, part in enumerate(written.split(_INSTRUCTION)):
        if number and instruction:
            ids += tokenizer.encode_batch([instruction])[0]
        if part:
            ids += tokenizer.hf(part, add_special_tokens=False)["input_ids"]
    return ids


def _turn_end(tokenizer: Tokenizer, after: Sequence[int]) -> int | None:
    """The special token that ends the assistant's turn; None: the template writes none."""
    special = {number for number, token in tokenizer.hf.added_tokens_decoder.items() if token.content.strip()}
    return next((number for number in after if number in special), None)
