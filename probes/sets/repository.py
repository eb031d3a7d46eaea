"""Labelled lines of a GitHub repository: downloaded once at a fixed commit, and kept."""

import contextlib
import os
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path

from pretrain.errors import DiptychError
from pretrain.sources.files import Files
from pretrain.sources.lines import lines
from pretrain.sources.record import BadRow
from probes.sets.rows import Label, Row, parse_label

_HOST = "https://raw.githubusercontent.com"
_TIMEOUT = 10.0


def repository_rows(name: str, repository: str, commit: str, files: Mapping[str, int | None]) -> Iterator[Row]:
    """Yields the rows of all files in order.

    Args:
        name: Of the set, for messages.
        repository: ``owner/name``.
        commit: 40 hex digits.
        files: Path in the repository to the class of all its lines; None: every line begins with its own.

    Raises:
        DiptychError: A file is not here yet and cannot be downloaded, or is damaged.
    """
    for path, label in files.items():
        local = _downloaded(name, f"{repository}/{commit}/{path}")
        # Corpora of that age mix UTF-8 with the Windows alphabet.
        for line in lines(Files().whole(str(local)), errors="surrogateescape"):
            if isinstance(line, BadRow):
                raise DiptychError(f"{line}; delete the file, and it is downloaded again")
            number, text = line
            raw: Label | None = label
            text = _repaired(text).strip()
            if raw is None and text:
                first, _, text = text.partition(" ")
                raw = parse_label(first, f"{local}:{number}")
            if raw is not None and text:
                yield Row({}, str(local), number, text=text.lstrip(), raw=raw)


def _downloaded(name: str, path: str) -> Path:
    """Where a file of GitHub is kept, beside what the hub's libraries keep."""
    from huggingface_hub import constants  # here, for most runs start without it

    local = Path(constants.HF_HOME) / "diptych" / path
    if local.is_file():
        return local
    url = f"{_HOST}/{path}"
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read()
        local.parent.mkdir(parents=True, exist_ok=True)
        handle, scratch = tempfile.mkstemp(dir=local.parent, prefix=local.name, suffix=".tmp")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.replace(scratch, local)  # other ranks may do the same
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(scratch)
            raise
    except Exception as error:  # of HTTP, sockets and disks
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DiptychError(
            f"{url}: cannot be downloaded ({reason}); download it where there is a network to {local}, or pass a "
            f"folder of files with texts and labels as {name}=DIR"
        ) from error
    return local


def _repaired(text: str) -> str:
    """A line in which bytes that are no UTF-8 stand as surrogates."""
    if text.isascii() or not any("\udc80" <= character <= "\udcff" for character in text):
        return text
    return text.encode(errors="surrogateescape").decode("cp1252", "replace")
