"""Files and folders that are there whole or not at all: written beside their place, then renamed."""

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Gives a scratch path; what the block writes there becomes the file ``path``, whose folder is made if need be.

    If the block fails, an earlier file stays and the scratch file goes. After a kill the scratch file is left over; its
    name begins with a dot.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        yield scratch
        with scratch.open("rb") as file:
            os.fsync(file.fileno())  # else a power failure could leave the name without the content
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 text as a whole file."""
    with whole_file(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Gives an empty folder ``PATH.tmp``; with what the block puts there it becomes the folder ``path``.

    One process at a time, which has made sure that ``path`` does not exist when the block ends. What a kill leaves over
    goes with the next call.
    """
    scratch = path.with_name(f"{path.name}.tmp")
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        yield scratch
        os.replace(scratch, path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
