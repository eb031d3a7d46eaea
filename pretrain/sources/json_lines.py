"""Reading JSON Lines with the place of every mistake."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pretrain.errors import DiptychError


def read_objects(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields ``("file:line", object)`` for every non-blank line.

    Raises:
        DiptychError: No such file, invalid UTF-8 or JSON, or a line that holds no object.
    """
    with _open(path) as file:
        for number, raw in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                line = raw.decode("utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise DiptychError(
                    f"{place}: byte {error.start + 1} of the line is not valid UTF-8; convert the file to UTF-8"
                ) from None
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                raise DiptychError(f"{place}: invalid JSON at column {error.colno}: {error.msg}") from None
            if not isinstance(value, dict):
                raise DiptychError(f"{place}: expected a JSON object, found {type(value).__name__}")
            yield place, value


def checked_view(value: object, place: str, name: str) -> str:
    """The text of one view, refused when it is no string or empty."""
    if not isinstance(value, str):
        raise DiptychError(f"{place}: view {name!r} is no string but {type(value).__name__}: {str(value)[:60]!r}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise DiptychError(
            f"{place}: view {name!r} holds half a surrogate pair, which no UTF-8 can hold; repair it"
        ) from None
    if not value.strip():
        raise DiptychError(f"{place}: view {name!r} is empty; drop the record or fill it")
    return value


def file_fingerprint(path: Path) -> str:
    """SHA-256 of the file's bytes."""
    with _open(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _open(path: Path) -> Any:
    try:
        return path.open("rb")
    except OSError as error:
        raise DiptychError(f"{path}: cannot be read ({error.strerror}); check data.sources") from None
