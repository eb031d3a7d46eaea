"""JSON Lines with named fields."""

import json
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from pretrain.sources.columns import FileColumnSource
from pretrain.sources.files import Files
from pretrain.sources.lines import TextSource
from pretrain.sources.part import Part
from pretrain.sources.record import BadRow, Item


class JsonlSource(TextSource, FileColumnSource):
    """``.jsonl`` files, one object a line; ``.gz`` and ``.zst`` as well."""

    type: Literal["jsonl"]

    def parts(self, files: Files) -> Sequence[Part]:
        """Pieces of the files of about 64 MiB."""
        return files.all_text_parts(self.path)

    def read(self, part: Part) -> Iterator[Item]:
        """Yields what the lines of a part give, in their order; blank lines are nothing."""
        for row in objects(self, part):
            if isinstance(row, BadRow):
                yield row
            else:
                yield self.to_record(row[1], part.file, row[0])


class _KeyTwice(Exception):
    """An object has a key twice, at any depth; JSON readers take the last one silently."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _KeyTwice(next(key for key in keys if keys.count(key) > 1))
    return value


_decode = json.JSONDecoder(object_pairs_hook=_object).decode


def objects(source: TextSource, part: Part) -> Iterator[tuple[int, dict[str, Any]] | BadRow]:
    """Yields the number and the object of every line that is not blank."""
    for line in source.lines(part):
        if isinstance(line, BadRow):
            yield line
            continue
        number, text = line
        if not text or text.isspace():
            continue
        try:
            value = _decode(text)
        except _KeyTwice as error:
            reason = f"key {str(error)[:40]!r} is there twice; rename one"
        except json.JSONDecodeError as error:
            reason = f"invalid JSON at column {error.colno}: {error.msg}; one object a line is expected"
        except RecursionError:
            reason = "invalid JSON: nested too deeply; flatten it"
        except ValueError:  # the only other one: Python reads no number of over 4,300 digits
            reason = "holds a whole number of thousands of digits; shorten it, or write it as a string"
        else:
            if isinstance(value, dict):
                yield number, value
                continue
            reason = f"expected a JSON object, found {type(value).__name__}"
        yield BadRow(part.file, number, reason)
