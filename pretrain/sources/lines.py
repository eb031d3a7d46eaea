"""Reading text line by line with the place of every mistake."""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field, field_validator

from pretrain.sources.opening import DAMAGE, open_bytes, reading
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Source

MAX_LINE_BYTES = 16 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True, slots=True)
class RestLost(BadRow):
    """The last thing of a part whose file is damaged: what comes after cannot be read."""


class TextSource(Source):
    """A source of text files: the settings that say how they are read."""

    encoding: str = Field("utf-8", description="Encoding of the text, such as utf-8, latin-1 or cp1252.")
    max_line_mb: int = Field(
        16, ge=1, description="A longer line (MiB) is a bad row; it is skipped without reading it."
    )

    @field_validator("encoding")
    @classmethod
    def _has_line_ends(cls, encoding: str) -> str:
        encoding = encoding.lower().replace("utf-8-sig", "utf-8")  # the mark is dropped anyway
        try:
            known = "\n\0a".encode(encoding) == b"\n\0a"
        except (LookupError, UnicodeError):
            raise ValueError(f"no encoding {encoding!r}; name one that Python knows, such as latin-1") from None
        if not known:
            raise ValueError(f"{encoding} does not write a line end as one byte; convert the files to UTF-8")
        return codecs.lookup(encoding).name

    def lines(self, part: Part, *, errors: str = "strict") -> Iterator[tuple[int, str] | BadRow]:
        """The lines of a part, read as the settings say."""
        return lines(part, encoding=self.encoding, max_line_bytes=self.max_line_mb << 20, errors=errors)


def lines(
    part: Part, *, encoding: str = "utf-8", max_line_bytes: int = MAX_LINE_BYTES, errors: str = "strict"
) -> Iterator[tuple[int, str] | BadRow]:
    r"""Yields one thing for every line of a part: its number in the file and its text, or what is wrong with it.

    Lines end at ``\n``; a ``\r`` before it and a byte order mark at the start of the file are dropped.

    Args:
        part: What to read; start and stop are bytes.
        encoding: One that writes a line end as one byte.
        max_line_bytes: A longer line is a bad row, and no more than this of it is ever in memory.
        errors: What is done about bytes that are invalid in the encoding, as in ``bytes.decode``. Strict: they are a
            bad row, and so is NUL, which otherwise passes.

    Raises:
        DiptychError: The file cannot be opened or read.
    """
    number = part.first_line
    strict = errors == "strict"
    for block in _blocks(part, max_line_bytes):
        if isinstance(block, int):
            yield BadRow(
                part.file,
                number,
                f"the line has {block:,} bytes, more than max_line_mb allows ({max_line_bytes / (1 << 20):g} MiB); "
                "raise it or drop the line",
            )
            number += 1
            continue
        if isinstance(block, str):
            yield RestLost(part.file, number, block)
            return
        if part.start == 0 and number == 1 and encoding == "utf-8":
            block = block.removeprefix(codecs.BOM_UTF8)
        try:
            text = None if strict and b"\0" in block else block.decode(encoding, errors)
        except UnicodeDecodeError:
            text = None
        if text is not None:
            rows = text.split("\n")
            if "\r" in text:
                rows = [row.removesuffix("\r") for row in rows]
            yield from enumerate(rows, number)
            number += len(rows)
        else:
            for raw in block.split(b"\n"):
                yield _line(raw.removesuffix(b"\r"), part.file, number, encoding)
                number += 1


def _line(raw: bytes, file: str, number: int, encoding: str) -> tuple[int, str] | BadRow:
    if b"\0" in raw:
        utf_16 = number == 1 and raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        content = "UTF-16 text; convert it to UTF-8" if utf_16 else "a binary file; check the path"
        return BadRow(file, number, f"byte {raw.index(0) + 1} of the line is NUL: this looks like {content}")
    try:
        return number, raw.decode(encoding)
    except UnicodeDecodeError as error:
        return BadRow(
            file,
            number,
            f"byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not valid {encoding.upper()}; convert "
            "the file to UTF-8 or set encoding (latin-1, cp1252, ...)",
        )


def _blocks(part: Part, max_line_bytes: int) -> Iterator[bytes | int | str]:
    """Yields whole lines together, without the last line end; the length of a line that is too long; or the damage."""
    size = min(_BLOCK, max_line_bytes)  # so a line that begins and ends in one block is never too long
    left = part.stop - part.start if part.stop is not None else None
    kept: list[bytes] = []  # the beginning of a line whose end has not come yet, unless it is too long
    length = 0  # of that line so far
    try:
        with open_bytes(part.file, part.start) as file, reading(part.file):
            while block := file.read(size if left is None else min(size, left)):
                left = None if left is None else left - len(block)
                first, last = block.find(b"\n"), block.rfind(b"\n")
                length += len(block) if first < 0 else first
                too_long = length > max_line_bytes
                if first < 0:
                    kept = [] if too_long else [*kept, block]
                    continue
                if not too_long:
                    yield b"".join([*kept, block[:last]])
                else:
                    yield length
                    if first < last:
                        yield block[first + 1 : last]
                kept = [block[last + 1 :]]
                length = len(kept[0])
    except DAMAGE as error:
        yield (
            f"the file is damaged or was cut short ({error}), and the rest of it is lost; copy or compress it again, "
            "or leave it out"
        )
        return
    if length > max_line_bytes:
        yield length
    elif length:
        yield b"".join(kept)
