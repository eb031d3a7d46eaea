"""What a line is asked to be, before it is worded, and the regex that says so."""

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

KINDS: Final = {
    "digit": "[0-9]",
    "odd digit": "[13579]",
    "even digit": "[02468]",
    "capital": "[A-Z]",
    "small": "[a-z]",
    "letter": "[A-Za-z]",
    "alphanumeric": "[A-Za-z0-9]",
    "vowel": "[AEIOUaeiou]",
    "character": ".",
}
"""Kinds of characters and their regex."""


@dataclass(frozen=True, slots=True)
class Thing:
    """What is looked for in a line.

    Attributes:
        sort: A character of a ``kind`` or of a ``range``, a ``text``, ``either`` of two things, or a ``chain`` of
            things one right after another.
        name: The kind, the first and last character of the range, the text.
        parts: The things of ``either`` and ``chain``.
    """

    sort: Literal["kind", "range", "text", "either", "chain"]
    name: str = ""
    parts: "tuple[Thing, ...]" = ()

    @property
    def regex(self) -> str:
        """The regex, fit to stand in a sequence."""
        match self.sort:
            case "kind":
                return KINDS[self.name]
            case "range":
                return f"[{self.name[0]}-{self.name[1]}]"
            case "text":
                return self.name
            case "either":
                return f"({'|'.join(part.regex for part in self.parts)})"
            case "chain":
                return "".join(part.regex for part in self.parts)

    @property
    def repeatable(self) -> str:
        """The regex, fit to be repeated."""
        return f"({self.regex})" if self.sort in ("text", "chain") else self.regex

    @property
    def single(self) -> bool:
        """Whether it is one character."""
        return self.sort in ("kind", "range") or (self.sort == "either" and all(part.single for part in self.parts))


@dataclass(frozen=True, slots=True)
class InOrder:
    """The line has these things, each beginning after the end of the one before."""

    things: tuple[Thing, ...]

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        return f".*{'.*'.join(thing.regex for thing in self.things)}.*"


@dataclass(frozen=True, slots=True)
class Times:
    """The line has the thing ``low`` to ``high`` times (None: without a bound), counted without overlap."""

    thing: Thing
    low: int
    high: int | None

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        least = f"(.*{self.thing.regex}){_bounds(self.low, None)}.*"
        if self.high is None:
            return least
        more = f"~((.*{self.thing.regex}){_bounds(self.high + 1, None)}.*)"
        return f"({least})&{more}" if self.low else more


@dataclass(frozen=True, slots=True)
class Begins:
    """The line begins with the thing."""

    thing: Thing

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        return f"{self.thing.regex}.*"


@dataclass(frozen=True, slots=True)
class Ends:
    """The line ends with the thing."""

    thing: Thing

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        return f".*{self.thing.regex}"


@dataclass(frozen=True, slots=True)
class Consists:
    """The line is the thing ``low`` to ``high`` times (None: without a bound), and nothing else."""

    thing: Thing
    low: int
    high: int | None

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        if self.low == self.high == 1:
            return self.thing.regex
        return self.thing.repeatable + _bounds(self.low, self.high)


@dataclass(frozen=True, slots=True)
class SomeWord:
    """The line has a word (a longest stretch of letters, digits and underscores) that the condition holds for."""

    condition: Begins | Ends | Consists

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        match self.condition:
            case Begins(thing):
                return rf".*\b{thing.regex}.*"
            case Ends(thing):
                return rf".*{thing.regex}\b.*"
            case Consists():
                return rf".*\b{self.condition.regex}\b.*"


Single: TypeAlias = InOrder | Times | Begins | Ends | Consists | SomeWord


@dataclass(frozen=True, slots=True)
class Denied:
    """The condition does not hold."""

    condition: "Condition"

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        return f"~({self.condition.regex})"


@dataclass(frozen=True, slots=True)
class Joined:
    """All conditions hold (``all``), or at least one of them does."""

    all: bool
    conditions: "tuple[Condition, ...]"

    @property
    def regex(self) -> str:
        """The regex of the lines that it holds for."""
        texts = (condition.regex for condition in self.conditions)
        return ("&" if self.all else "|").join(
            text if isinstance(condition, Denied) else f"({text})"
            for condition, text in zip(self.conditions, texts, strict=True)
        )


Condition: TypeAlias = Single | Denied | Joined


def singles(condition: Condition) -> tuple[Single, ...]:
    """Return the conditions that a condition is joined from, without repetition, in their order."""
    match condition:
        case Denied(inner):
            return singles(inner)
        case Joined(_, inners):
            return tuple(dict.fromkeys(single for inner in inners for single in singles(inner)))
        case _:
            return (condition,)


def _bounds(low: int, high: int | None) -> str:
    if high is None:
        return {0: "*", 1: "+"}.get(low, f"{{{low},}}")
    return f"{{{low}}}" if low == high else f"{{{low},{high}}}"
