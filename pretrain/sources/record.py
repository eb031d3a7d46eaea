"""The record, and the interface of every source: parts that are read independently, and what reading one gives."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from pretrain.sources.files import Files
from pretrain.sources.part import Part


@dataclass(frozen=True, slots=True)
class Record:
    """One meaning in two or more wordings.

    Attributes:
        views: View name to its wordings: one text, or several that say the same (five captions of one image).
        file: The file it was read from, or the name of the grammar that made it.
        line: Line of a text file, row of a table, number of a generated record; from 1.
        id: The user's name of the record, where the source has one; unique within the source.
        group: Records of one group stay on one side of the held-out split.
        label: A class for probing where the source knows one (the review grammar: 0 negative, 1 positive).
    """

    views: Mapping[str, tuple[str, ...]]
    file: str
    line: int
    id: str | None = None
    group: str | None = None
    label: int | None = None

    @property
    def place(self) -> str:
        """``file:line``, for messages."""
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that gives no record, with the reason and the remedy; ``data.on_bad_row`` says what becomes of it."""

    file: str
    line: int
    problem: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.problem}"


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A row that the source's ``keep`` does not want; it is counted."""


LEFT_OUT = LeftOut()

Item: TypeAlias = Record | BadRow | LeftOut
"""What a row of a source gives."""


class Source(BaseModel):
    """A source of multi-view records; a new one is a subclass in a file of its own and a line in ``__init__.py``.

    A subclass adds a literal ``type`` and its settings.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    location: ClassVar[frozenset[str]] = frozenset({"path"})
    """Settings that say where files lie, not what they hold."""

    name: str | None = Field(
        None,
        min_length=1,
        pattern=r"^\w[\w.-]*$",
        description="Name in reports and mixtures (which need one); none: reports make one from the path.",
    )

    @property
    def title(self) -> str:
        """The name, or one made from the path: ``quora/train.jsonl`` is ``quora.train``, ``quora/*.gz`` ``quora``."""
        if self.name is not None:
            return self.name
        path = getattr(self, "path", None)
        if path is None:
            return str(getattr(self, "type"))  # noqa: B009 (subclasses declare it)
        pure = PurePosixPath(str(path[0] if isinstance(path, list | tuple) else path))
        parent = pure.parent.name.lstrip(".")
        plain = not set("*?[{") & set(pure.name)
        named = ".".join(part for part in (parent, pure.name.split(".")[0] if plain else "") if part)
        return "".join(character if character.isalnum() or character in "._-" else "_" for character in named) or "data"

    def settings(self) -> dict[str, Any]:
        """All settings but those that say where the files lie; JSON values."""
        return self.model_dump(mode="json", exclude=set(self.location))

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        raise NotImplementedError

    def code_views(self) -> tuple[str, ...]:
        """Those of them that are known to be code, whose texts are compared as written."""
        return ()

    def parts(self, files: Files) -> Sequence[Part]:
        """The parts, in the order of the records.

        Raises:
            DiptychError: No file matches, or one cannot be read.
        """
        raise NotImplementedError

    def read(self, part: Part) -> Iterator[Item]:
        """Yields the records and bad rows of a part, in order, the same on every call.

        A row that is wrong is a ``BadRow``, one that is not wanted a ``LeftOut``.
        """
        raise NotImplementedError

    def where(self) -> str:
        """Where the records come from, for reports."""
        return str(getattr(self, "path", None) or self.title)
