"""Labelled lines of a GitHub repository: downloaded once at a fixed commit, and kept."""

import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from pretrain.runtime.atomic_write import whole_file
from pretrain.runtime.errors import DiptychError
from pretrain.sources.files import Files
from pretrain.sources.lines import lines
from pretrain.sources.record import BadRow
from probes.sets.registry import RegisteredSet
from probes.sets.rows import Label, LabelledRow, parse_label

_HOST = "https://raw.githubusercontent.com"
_NO_UTF_8 = re.compile("[\udc80-\udcff]")
_TIMEOUT = 10.0


def repository_rows(name: str, known: RegisteredSet) -> list[LabelledRow]:
    """The rows of all files of a registered set, in order.

    Args:
        name: Of the set, for messages.
        known: Has ``lines``.

    Raises:
        DiptychError: A file is not here yet and cannot be downloaded, or there are not the texts that there should be.
    """
    folder = f"{known.dataset}/{known.revision}"
    files = {_downloaded(name, f"{folder}/{path}"): label for path, label in known.lines.items()}
    try:
        rows = [row for path, label in files.items() for row in _rows(str(path), label)]
        if abs(len(rows) - known.num_texts) > 0.01 * known.num_texts:
            raise DiptychError(f"{name}: {len(rows):,} texts where there should be about {known.num_texts:,}")
    except DiptychError as error:
        listed = " ".join(map(str, files))
        raise DiptychError(f"{error}; what was downloaded is damaged: delete {listed} to download it again") from error
    return rows


def _rows(path: str, label: int | None) -> Iterator[LabelledRow]:
    # Corpora of that age mix UTF-8 with Windows-1252.
    for line in lines(Files().whole(path), errors="surrogateescape"):
        if isinstance(line, BadRow):
            raise DiptychError(str(line))
        number, text = line
        raw: Label | None = label
        text = _repaired(text).strip()
        if raw is None and text:
            first, _, text = text.partition(" ")
            raw = parse_label(first, f"{path}:{number}")
        if raw is not None and text:
            yield LabelledRow({}, path, number, text=text.lstrip(), raw=raw)


def _downloaded(name: str, path: str) -> Path:
    """Where a file of GitHub is kept, beside what the hub's libraries keep."""
    from huggingface_hub import constants  # imported here, because most runs do not need it

    local = Path(constants.HF_HOME) / "diptych" / path
    if local.is_file():
        return local
    url = f"{_HOST}/{path}"
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as response:
            content = response.read()
        with whole_file(local) as scratch:  # other ranks may write the same file
            scratch.write_bytes(content)
    except Exception as error:  # of HTTP, sockets and disks
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise DiptychError(
            f"{url}: cannot be downloaded ({reason}); download it where there is a network to {local}, or pass a "
            f"folder of files with texts and labels as {name}=DIR"
        ) from error
    return local


def _repaired(text: str) -> str:
    """A line whose bytes that are not UTF-8 (surrogates) are decoded as Windows-1252."""
    return _NO_UTF_8.sub(lambda match: bytes([ord(match[0]) - 0xDC00]).decode("cp1252", "replace"), text)
