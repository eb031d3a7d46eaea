"""Rows with named fields, whatever format they come in: which fields are views, and which rows are records."""

from collections.abc import Iterable, Mapping
from pathlib import PurePath
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.yaml_file import number
from pretrain.sources.record import LEFT_OUT, BadRow, Item, Record, Source

PathText = Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, PurePath) else path)]
"""A path, glob or URL as text."""

Paths = PathText | Annotated[tuple[PathText, ...], Field(min_length=1)]
"""One or several of them, read in this order."""

Names = str | Annotated[tuple[str, ...], Field(min_length=1)]

_MISSING = object()


class Problem(Exception):
    """What is wrong with a row; becomes a ``BadRow``."""


class RowSource(Source):
    """A source of rows: which of them are records, and what they are called."""

    keep: dict[str, Any] = Field(
        default_factory=dict, description="Only rows whose fields have these values, as in {label: 1}."
    )
    id: str | None = Field(None, min_length=1, description="Field that names the record; a string or an integer.")
    group: str | None = Field(
        None, min_length=1, description="Field whose equal values stay on one side of the held-out split."
    )

    label: str | None = Field(
        None, min_length=1, description="Field with the record's class, an integer; only probes while training read it."
    )

    def kept(self, row: Mapping[str, Any]) -> bool:
        """Whether the row is wanted."""
        return all(same_word(look_up(row, field), value) for field, value in self.keep.items())

    def named(self, row: Mapping[str, Any], views: dict[str, tuple[str, ...]], file: str, line: int) -> Record:
        """The record of a row with the id, the group and the label that the row says.

        Raises:
            Problem: One of them is missing or no such value.
        """
        if self.id is None and self.group is None and self.label is None:
            return Record(views, file, line)
        names = _name(row, self.id, "id"), _name(row, self.group, "group")
        return Record(views, file, line, *names, _label(row, self.label))


class ColumnSource(RowSource):
    """A source of rows in which every view is a field, or several that say the same."""

    fields: dict[str, Names] = Field(
        {"text": "text", "code": "code"},
        min_length=1,
        description="View name to field, or to several fields that word it differently; a.b is field b of object a.",
    )

    def view_names(self) -> tuple[str, ...]:
        """The views that every record has."""
        return tuple(self.fields)

    def to_record(self, row: Mapping[str, Any], file: str, line: int) -> Item:
        """The record of a row, or why there is none.

        Args:
            row: Field name to value: a string, or a list of strings that say the same.
            file: Where it comes from.
            line: Its number there, from 1.
        """
        if self.keep and not self.kept(row):
            return LEFT_OUT
        try:
            views: dict[str, tuple[str, ...]] = {}
            for view, names in self.fields.items():
                value = row.get(names) if isinstance(names, str) else None
                if isinstance(value, str) and value.isascii() and value.strip():
                    views[view] = (value,)  # almost always, so the checks are not called
                else:
                    several = (names,) if isinstance(names, str) else names
                    views[view] = tuple(text for name in several for text in wordings(_field(row, name, view), view))
            return self.named(row, views, file, line)
        except Problem as problem:
            return BadRow(file, line, str(problem))

    def needed(self, available: Iterable[str], file: str) -> list[str]:
        """The columns of a table that records need, in the table's order.

        Raises:
            DiptychError: The table lacks one.
        """
        available = list(available)
        wanted = [name for names in self.fields.values() for name in ([names] if isinstance(names, str) else names)]
        found = set()
        for name in [*wanted, *self.keep, *(name for name in (self.id, self.group, self.label) if name)]:
            column = name if name in available else name.partition(".")[0]
            if column not in available:
                raise DiptychError(
                    f"{file}: no column {name!r}; it has {_listed(available)}; correct the source's fields"
                )
            found.add(column)
        return [column for column in available if column in found]


class FileColumnSource(ColumnSource):
    """A source of files of rows."""

    path: Paths = Field(description="The files: path, glob or URL (s3://, https://, ...), or several of them.")


def same_word(value: object, wanted: object) -> bool:
    """Whether a field has a wanted value: an equal one, or a text that spells the number.

    1 is "1" and 1.10 is "1.10", but not "1.1"; true is "True", and no number.
    """
    if isinstance(value, str) and isinstance(wanted, bool):
        return value.lower() == str(wanted).lower()
    if isinstance(value, str) and isinstance(wanted, int | float):
        return value == str(wanted)
    if isinstance(value, int | float) and isinstance(wanted, str):
        return not isinstance(value, bool) and value == number(wanted)
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def look_up(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field, or of ``a.b`` the field b of the object a; None where there is none."""
    value = _find(row, name)
    return None if value is _MISSING else value


def text_of(value: object, view: str) -> str:
    """Checks one text of a view.

    Raises:
        Problem: It is no string, blank, or cannot be written as UTF-8.
    """
    if not isinstance(value, str):
        raise Problem(f"view {view!r} is no string but {type(value).__name__}: {_shown(value)}")
    if not value or value.isspace():
        raise Problem(f"view {view!r} is empty; drop the row or fill it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Problem(f"view {view!r} holds half a surrogate pair, which no UTF-8 can hold; repair it") from None
    return value


def wordings(value: object, view: str) -> tuple[str, ...]:
    """The texts of a view: a string is one, a list of strings several.

    Raises:
        Problem: A text is unusable, or there is none.
    """
    if isinstance(value, list | tuple):
        if not value:
            raise Problem(f"view {view!r} is an empty list; drop the row or fill it")
        return tuple([text_of(text, view) for text in value])
    return (text_of(value, view),)


def _find(row: Mapping[str, Any], name: str) -> Any:
    if name in row:
        return row[name]
    head, dot, rest = name.partition(".")
    inner = row.get(head) if dot else None
    return _find(inner, rest) if isinstance(inner, Mapping) else _MISSING


def _field(row: Mapping[str, Any], name: str, view: str) -> Any:
    value = _find(row, name)
    if value is _MISSING:
        raise Problem(f"no field {name!r} for view {view!r}; it has {_listed(row)}")
    return value


def _name(row: Mapping[str, Any], field: str | None, role: str) -> str | None:
    if field is None:
        return None
    value = look_up(row, field)
    if not isinstance(value, str | int) or isinstance(value, bool) or value == "":
        raise Problem(f"{role} field {field!r} is no string or integer: {_shown(value)}")
    name = str(value)
    return text_of(name, role) if not name.isascii() else name


def _label(row: Mapping[str, Any], field: str | None) -> int | None:
    if field is None:
        return None
    value = look_up(row, field)
    if not isinstance(value, int) or not 0 <= value < 2**31:
        raise Problem(f"label field {field!r} is no integer from 0 up: {_shown(value)}")
    return int(value)


def _listed(names: Iterable[str]) -> str:
    names = [str(name)[:40] for name in names]
    return (", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")) or "no fields"


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "…"
