"""CSV and TSV files with named columns."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from pretrain.runtime.errors import DiptychError
from pretrain.sources.columns import FileColumnSource, same_word
from pretrain.sources.files import Files
from pretrain.sources.lines import TextSource
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Item


class DelimitedSource(TextSource, FileColumnSource):
    """Tables as text, ``.gz`` and ``.zst`` as well.

    ``csv`` has quotes, so a cell may hold line ends and a file is read in one piece; in ``tsv`` a quote is a character
    like any other. All values are text.
    """

    type: Literal["csv", "tsv"]
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="Character between cells; none: a comma in csv, a tab in tsv."
    )
    columns: tuple[str, ...] | None = Field(
        None, min_length=1, description="Names of the columns of files without a header; none: the first line has them."
    )

    def parts(self, files: Files) -> Sequence[Part]:
        """One part for every file."""
        return files.all_whole(self.path)

    def read(self, part: Part) -> Iterator[Item]:
        """Yields the records and bad rows of a file, in order; the line of a record is the one where it begins.

        Raises:
            DiptychError: The header lacks a column, or has one twice; a second one names them in another order.
        """
        names = self._checked(self.columns, part.file) if self.columns is not None else None
        header = _folded(names or ())
        for row in self._rows(part):
            if isinstance(row, BadRow):
                yield row
                continue
            line, cells = row
            if names is None:
                names = self._checked(cells, part.file)
                header = _folded(names)
                continue
            if len(cells) != len(names):
                yield BadRow(
                    part.file,
                    line,
                    f"{len(cells)} cells, but there are {len(names)} columns; a cell that holds the delimiter "
                    + ("must be quoted" if self.type == "csv" else "is not possible in tsv"),
                )
                continue
            if cells[0].strip().casefold() in header and sorted(again := _folded(cells)) == sorted(header):
                problem = "names the columns once more, as in files that were joined"
                if again != header:  # what follows would be read as other columns
                    raise DiptychError(f"{part.file}:{line}: {problem}, in another order; split the file there")
                yield BadRow(part.file, line, f"{problem}; remove the line")
                continue
            yield self.to_record(dict(zip(names, cells, strict=True)), part.file, line)

    def kept(self, row: Mapping[str, Any]) -> bool:
        """Whether the cells say what ``keep`` wants; an empty cell is null."""
        return all(same_word(row[field] or None, None if value == "" else value) for field, value in self.keep.items())

    def _checked(self, names: Sequence[str], file: str) -> list[str]:
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise DiptychError(f"{file}:1: column {min(twice)!r} is there twice; rename one, or set columns")
        self.needed(names, f"{file}:1")
        return list(names)

    def _rows(self, part: Part) -> Iterator[tuple[int, list[str]] | BadRow]:
        """Yields the cells of every row that is not blank, and the line that it begins at."""
        bad: list[BadRow] = []

        def texts() -> Iterator[str]:
            # Invalid bytes pass as surrogates, and NUL, for the quotes beside them still count.
            for line in self.lines(part, errors="surrogateescape"):
                if isinstance(line, BadRow):
                    bad.append(line)
                    yield "\n"
                else:
                    yield line[1].removeprefix("\ufeff") + "\n"  # of a file that was joined on

        csv.field_size_limit(self.max_line_mb << 20)
        delimiter = self.delimiter or ("," if self.type == "csv" else "\t")
        if self.type == "csv":
            reader = csv.reader(texts(), delimiter=delimiter, strict=True)
        else:
            reader = csv.reader(texts(), delimiter=delimiter, quoting=csv.QUOTE_NONE)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                bad = bad or [BadRow(part.file, line, f"{error}; is a quote left open or not doubled?")]
                cells = []
            if bad:
                yield from bad
                bad.clear()
            elif problem := _unreadable("".join(cells)):
                yield BadRow(part.file, line, f"{problem}; convert the file to UTF-8 or set encoding")
            elif cells:
                yield line, cells


def _folded(cells: Sequence[str]) -> list[str]:
    return [cell.strip().casefold() for cell in cells]


def _unreadable(text: str) -> str | None:
    if "\0" in text:
        return "holds a NUL: this looks like a binary file or UTF-16"
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return f"byte 0x{ord(text[error.start]) & 0xFF:02x} is not valid in the file's encoding"
    return None
