"""Rows with a text and a class, from any format."""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import ColumnSource
from pretrain.sources.files import Files
from pretrain.sources.record import BadRow, Record

Label = int | str
"""A class as the data says it: whole numbers, else text."""

NAME_COLUMNS = ("label_name", "label_text")
"""Columns that name the class of a numbered label."""

_MOST_DIGITS = 18  # what fits 64 bits; Python reads no number of thousands of digits
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


@dataclass(frozen=True, slots=True)
class LabelledRow(Record):
    """A text and its class.

    Attributes:
        text: May be empty.
        raw: The class as it stands in the data; unused if the text is empty.
        class_name: What a column beside it calls the class, if there is one.
    """

    text: str = ""
    raw: Label = 0
    class_name: str | None = None


class LabelledRows(ColumnSource):
    """Turns any source of named fields into one of rows with a text and a class.

    Comes before the source among the bases of a class.
    """

    text_columns: tuple[tuple[str, ...], ...]
    """Candidate text columns; the first entry whose columns all exist is used."""
    label_column: str

    def needed(self, available: Iterable[str], file: str) -> list[str]:
        """The columns of a table that rows need, in the table's order.

        Raises:
            DiptychError: The text or the label has none.
        """
        available = list(available)
        text = self._text(available, file)
        if self.group is not None and self.group not in available:
            raise DiptychError(_no_group(file, self.group, available))
        return [name for name in available if name in (*text, self.label_column, *NAME_COLUMNS, self.group)]

    def to_record(self, row: Mapping[str, Any], file: str, line: int) -> LabelledRow:
        """The text and the class of a row.

        Raises:
            DiptychError: It has none, or one that cannot be used.
        """
        place = f"{file}:{line}"
        texts = [_text_of(row[name], name, place) for name in self._text(row, place)]
        text = "\n".join(text for text in texts if text and not text.isspace())
        if not text:
            return LabelledRow({}, file, line)
        name = next((row[name] for name in NAME_COLUMNS if isinstance(row.get(name), str) and row[name]), None)
        label = parse_label(row[self.label_column], place)
        group = None
        if self.group is not None:
            if self.group not in row:
                raise DiptychError(_no_group(place, self.group, row))
            value = row[self.group]
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | str)):
                raise DiptychError(
                    f"{place}: group {value!r} is of type {type(value).__name__}, but a group is a text or a whole "
                    "number; convert it"
                )
            group = None if value in (None, "") else str(value)
        return LabelledRow(
            *({}, file, line),
            group=group,
            text=text,
            raw=label,
            class_name=name if isinstance(label, int) else None,
        )

    def rows(self) -> Iterator[LabelledRow]:
        """Yields all rows in order.

        Raises:
            DiptychError: The data cannot be read, or a row is wrong.
        """
        for part in self.parts(Files()):
            for row in self.read(part):
                if isinstance(row, BadRow):
                    raise DiptychError(str(row))
                assert isinstance(row, LabelledRow)
                yield row

    def _text(self, available: Iterable[str], place: str) -> tuple[str, ...]:
        for columns in self.text_columns:
            if all(name in available for name in columns):
                if self.label_column not in available:
                    raise DiptychError(
                        f"{place}: no column {self.label_column!r}, so there are no labels; it has "
                        f"{listed(available)}; name the column of the labels with --label"
                    )
                return columns
        wanted = " or ".join(" + ".join(map(repr, columns)) for columns in self.text_columns)
        raise DiptychError(
            f"{place}: no column {wanted}; it has {listed(available)}; name the column of the texts with --text"
        )


def _no_group(place: str, group: str, available: Iterable[str]) -> str:
    return f"{place}: no column {group!r}; it has {listed(available)}; name the column of the groups with --group"


def parse_label(value: object, place: str) -> Label:
    """A class as a whole number or text.

    Numbers in quotes count as numbers, for CSV has no others; true and false are the texts.

    Raises:
        DiptychError: There is none, or it is a number with a fraction.
    """
    if isinstance(value, str):
        value = value.strip()
        if value.lower() in ("", "nan"):
            value = None
        elif _NUMBER.fullmatch(value):
            whole = value.lstrip("+-").isdigit()
            if whole and len(value) > _MOST_DIGITS:
                raise _too_large(place)
            value = int(value) if whole else float(value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        raise DiptychError(f"{place}: the label is missing; fill it or drop the row")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and abs(value) >= 10**_MOST_DIGITS:
        raise _too_large(place)
    if isinstance(value, float):
        raise DiptychError(f"{place}: label {value} has a fraction, but a class is a whole number or a text; bin it")
    if not isinstance(value, int | str):
        raise DiptychError(
            f"{place}: the label is of type {type(value).__name__}, but a class is a whole number or a text; convert it"
        )
    return value


def _too_large(place: str) -> DiptychError:
    return DiptychError(f"{place}: the label is a number of more than {_MOST_DIGITS} digits; number the classes anew")


def _text_of(value: object, column: str, place: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DiptychError(
            f"{place}: column {column!r} is no text but of type {type(value).__name__}; name the column of the texts "
            "with --text"
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise DiptychError(
                f"{place}: column {column!r} holds half a surrogate pair, which no UTF-8 can hold; repair it"
            ) from None
    return value


def listed(names: Iterable[str]) -> str:
    """Names for a message, the first twenty of them."""
    shown: Sequence[str] = [str(name)[:40] for name in names]
    return (", ".join(shown[:20]) + (f" and {len(shown) - 20} more" if len(shown) > 20 else "")) or "none"
