"""Finding, hashing and cutting the files of sources: local ones and those of any object store that fsspec knows."""

import contextlib
import glob
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pretrain.runtime.atomic_write import write_text
from pretrain.runtime.errors import DiptychError
from pretrain.sources.opening import file_system, is_compressed, local_path, reading
from pretrain.sources.part import Part

Cut = tuple[int, int | None, int, str]
"""Start, stop, first line and SHA-256 of a part."""

_BLOCK = 1 << 20
_RACY_SECONDS = 2.0
_SAVE_SECONDS = 30.0


class Files:
    """Finds the files of sources, and caches their hashes from one start to the next.

    Args:
        cache: File that remembers hashes by path, size and time of change; none: every file is hashed again.
    """

    def __init__(self, cache: Path | None = None) -> None:
        self._cache = cache
        self._known: dict[str, Any] = self._load()
        self._new: dict[str, Any] = {}
        self._saved = time.monotonic()

    def match(self, patterns: str | Sequence[str]) -> list[str]:
        """Finds files.

        Args:
            patterns: Paths, globs (``**`` too) or fsspec URLs, which may be globs.

        Returns:
            The files in the order of the patterns, those of one pattern sorted; none twice.

        Raises:
            DiptychError: A pattern matches nothing or is a folder, or its store cannot be reached.
        """
        matched: dict[str, str] = {}
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            local = local_path(pattern)
            for path in sorted(_match_remote(pattern) if local is None else _match_local(local)):
                matched.setdefault(path if "://" in path else os.path.realpath(path), path)
        return list(matched.values())

    def whole(self, path: str) -> Part:
        """The file as one part.

        Its fingerprint is the SHA-256 of a local file's bytes; of a remote file, which is not downloaded for it, of the
        store's checksum or else of size and time of change.
        """
        if local_path(path) is None:
            return _remote_part(path)
        return self._parts(path, None)[0]

    def text_parts(self, path: str, part_bytes: int = 64 << 20) -> list[Part]:
        """Cuts a text file at line ends into parts of ``part_bytes`` or a little more.

        The fingerprint of a part is the SHA-256 of its own bytes, so what is appended to a file leaves the earlier
        parts as they are. A compressed or remote file is one part.
        """
        if local_path(path) is None or is_compressed(path):
            return [self.whole(path)]
        return self._parts(path, part_bytes)

    def all_text_parts(self, patterns: str | Sequence[str]) -> list[Part]:
        """The ``text_parts`` of all files that match."""
        parts = [part for path in self.match(patterns) for part in self.text_parts(path)]
        self.save()
        return parts

    def all_whole(self, patterns: str | Sequence[str]) -> list[Part]:
        """All files that match, each as one part."""
        parts = [self.whole(path) for path in self.match(patterns)]
        self.save()
        return parts

    def save(self) -> None:
        """Writes what was hashed since the last time; a folder that cannot be written to only costs time."""
        if self._cache is None or not self._new:
            return
        self._known = self._load() | self._known | self._new  # another process may have hashed other files
        self._new, self._saved = {}, time.monotonic()
        with contextlib.suppress(OSError):
            write_text(self._cache, json.dumps(self._known))

    def _parts(self, path: str, part_bytes: int | None) -> list[Part]:
        local = str(local_path(path))
        key = f"{os.path.abspath(local)}:{part_bytes or 'whole'}"
        with reading(path):
            before = os.stat(local)
            state = [before.st_size, before.st_mtime_ns]
            entry = self._new.get(key) or self._known.get(key)
            cuts: list[Cut] = _remembered(entry, state)
            if not cuts:
                with open(local, "rb", buffering=0) as file:
                    cuts = list(_cut(file, part_bytes))
                after = os.stat(local)
                # A file that was changed a moment ago may change again without its time showing it.
                settled = time.time() - before.st_mtime > _RACY_SECONDS
                if self._cache is not None and settled and [after.st_size, after.st_mtime_ns] == state:
                    self._new[key] = {"state": state, "cuts": cuts}
                    if len(self._known) < 1000 or time.monotonic() - self._saved > _SAVE_SECONDS:
                        self.save()
        size = before.st_size
        watched = ((local, size, before.st_mtime_ns),)
        return [
            Part(path, digest, (size if stop is None else stop) - start, start, stop, line, watched)
            for start, stop, line, digest in cuts
        ]

    def _load(self) -> dict[str, Any]:
        try:
            known = json.loads(self._cache.read_bytes()) if self._cache is not None else {}
        except (OSError, ValueError):
            known = {}
        return known if isinstance(known, dict) else {}


def _cut(file: Any, part_bytes: int | None) -> Iterator[Cut]:
    """Hashes a file in one pass; without ``part_bytes`` as one part that has no stop."""
    digest, start, line, lines, position = hashlib.sha256(), 0, 1, 0, 0
    while block := file.read(_BLOCK):
        begin = 0
        while part_bytes is not None:
            end = block.find(b"\n", max(begin, start + part_bytes - 1 - position)) + 1
            if not end:
                break
            digest.update(block[begin:end])
            yield start, position + end, line, digest.hexdigest()
            line += lines + block.count(b"\n", begin, end)
            digest, start, lines, begin = hashlib.sha256(), position + end, 0, end
        digest.update(block[begin:])
        lines += block.count(b"\n", begin) if part_bytes is not None else 0
        position += len(block)
    if part_bytes is None or position > start or position == 0:
        yield start, None if part_bytes is None else position, line, digest.hexdigest()


def _remembered(entry: Any, state: list[int]) -> list[Cut]:
    """The parts of a cache entry; none where it is damaged or of another state of the file."""
    try:
        cuts = [(start, stop, line, str(digest)) for start, stop, line, digest in entry["cuts"]]
        return cuts if entry["state"] == state else []
    except (KeyError, TypeError, ValueError):
        return []


def _match_local(pattern: str) -> list[str]:
    if os.path.isfile(pattern):  # first, for a name may hold brackets
        return [pattern]
    if os.path.isdir(pattern):
        raise DiptychError(f"{pattern}: is a folder; name its files, as in {pattern.rstrip('/')}/*.jsonl")
    matched = [path for path in glob.iglob(pattern, recursive=True) if os.path.isfile(path)]
    if not matched:
        what = "no file matches" if glob.has_magic(pattern) else "no such file"
        raise DiptychError(f"{pattern}: {what} (working directory {os.getcwd()}); check the path")
    return matched


def _match_remote(pattern: str) -> list[str]:
    with reading(pattern):
        system, name = file_system(pattern)
        matched = system.glob(name, detail=True)
    names = [name for name, info in matched.items() if info.get("type") != "directory"]
    if not names:
        what = "is a folder; name its files, as in FOLDER/*.jsonl" if matched else "no file matches; check the path"
        raise DiptychError(f"{pattern}: {what}")
    head, chained, tail = pattern.partition("::")
    if not chained:
        return [system.unstrip_protocol(name) for name in names]
    if "://" in head:  # zip://*.csv::s3://bucket/archive.zip
        return [f"{head.split('://')[0]}://{name}::{tail}" for name in names]
    return [f"{head}::{tail.split('://')[0]}://{name}" for name in names]  # simplecache::s3://bucket/*.csv


def _remote_part(path: str) -> Part:
    with reading(path):
        system, name = file_system(path)
        info = system.info(name)
        size = int(info.get("size") or 0)
        sums = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest")
        times = ("LastModified", "last_modified", "updated", "Last-Modified", "mtime", "created")
        state = next((str(info[key]) for key in (*sums, *times) if info.get(key)), None) or str(system.ukey(name))
    return Part(path, hashlib.sha256(f"{size} {state}".encode()).hexdigest(), size)
