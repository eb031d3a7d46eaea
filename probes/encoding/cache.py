"""Storage of pooled states: in memory, or in a cache folder that is either whole or absent.

A cache folder is named by a hash of everything that decides the numbers. It is written under a temporary name, its
checksum goes into ``manifest.json``, and then it is renamed. A folder that does not match its manifest is rewritten.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pretrain.runtime.errors import DiptychError

FORMAT = 2
_STALE_SECONDS = 86_400
FloatArray = npt.NDArray[np.float32]
Shape = tuple[int, int, int, int]
"""Layers, poolings, texts, width."""


class Store(Protocol):
    """Anything that stores pooled states."""

    def write(self, start: int, values: FloatArray) -> None:
        """Keeps the states of the texts from ``start`` on, shape [layers, poolings, texts, width]."""


class Memory:
    """Pooled states in memory."""

    def __init__(self, shape: Shape) -> None:
        self.values: FloatArray = np.empty(shape, np.float32)

    def write(self, start: int, values: FloatArray) -> None:
        """Keeps the states of the texts from ``start`` on."""
        self.values[:, :, start : start + values.shape[2]] = values


class CacheFolder:
    """Pooled states on disk; one process writes, all may read."""

    def __init__(self, root: Path, identity: Mapping[str, Any], shape: Shape) -> None:
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        self.key = hashlib.sha256(text.encode()).hexdigest()[:32]
        self.identity, self.shape = identity, shape
        self.folder = root / self.key
        # Another process, perhaps on another node, may be writing the same folder.
        self.scratch = root / f"{self.key}.{uuid.uuid4().hex[:12]}.tmp"
        self.states = self.folder / "states.f32"

    @property
    def size(self) -> int:
        """Bytes of all states."""
        return int(np.prod(self.shape, dtype=np.int64)) * 4

    def look(self) -> tuple[dict[int, int] | None, str | None]:
        """Which texts were cut, if the folder is whole; else what is wrong with its size or checksum.

        Neither if it does not exist.
        """
        if not self.folder.exists():
            return None, None
        try:
            manifest = json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))
            with self.states.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != self.size:
                    return None, f"{self.states.name} has {found} bytes, not {self.size}"
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                    return None, f"{self.states.name} does not match its checksum"
            return {int(text): int(read) for text, read in manifest["cut"].items()}, None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"cannot be read ({error})"

    def start(self) -> None:
        """Allocates space for the states.

        Raises:
            DiptychError: The disk is too small or the folder cannot be written.
        """
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder.parent).free
            if free < self.size:
                raise DiptychError(
                    f"cache {self.folder.parent}: {free / 2**30:.1f} GiB free, but the states of {self.shape[2]:,} "
                    f"texts take {self.size / 2**30:.1f} GiB; free space, choose another folder or fewer texts"
                )
            for left in self.folder.parent.glob(f"{self.key}.*.tmp"):  # left by a process that was killed
                with contextlib.suppress(FileNotFoundError):  # another process is renaming it just now
                    written = max(path.stat().st_mtime for path in (left, *left.iterdir()))
                    if time.time() - written > _STALE_SECONDS:
                        shutil.rmtree(left, ignore_errors=True)
            self.scratch.mkdir()
            with (self.scratch / self.states.name).open("wb") as file:
                file.truncate(self.size)
        except OSError as error:
            raise self._unwritable(error) from None

    def write(self, start: int, values: FloatArray) -> None:
        """Keeps the states of the texts from ``start`` on.

        Not through a mapping: pages written that way count as this process's memory.
        """
        layers, poolings, texts, width = self.shape
        try:
            with (self.scratch / self.states.name).open("r+b") as file:
                for layer in range(layers):
                    for pooling in range(poolings):
                        file.seek((((layer * poolings) + pooling) * texts + start) * width * 4)
                        file.write(np.ascontiguousarray(values[layer, pooling]).data)
        except OSError as error:
            raise self._unwritable(error) from None

    def commit(self, cut: Mapping[int, int]) -> None:
        """Renames the folder to its final name.

        Args:
            cut: Characters that were read of each text that was cut, by its number.
        """
        try:
            with (self.scratch / self.states.name).open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            manifest = {"format": FORMAT, "sha256": digest, "cut": cut, "shape": self.shape}
            text = json.dumps({**manifest, **self.identity}, indent=1) + "\n"
            (self.scratch / "manifest.json").write_text(text, encoding="utf-8")
            if self.look()[0] is not None:  # another process was faster, and a third may be reading
                shutil.rmtree(self.scratch)
                return
            if self.folder.exists():
                shutil.rmtree(self.folder)
            os.replace(self.scratch, self.folder)
        except OSError as error:
            raise self._unwritable(error) from None

    def discard(self) -> None:
        """Removes an uncommitted folder."""
        shutil.rmtree(self.scratch, ignore_errors=True)

    def check_visible(self) -> None:
        """Checks that this process sees what another process wrote.

        Raises:
            DiptychError: It does not.
        """
        if not self.states.is_file():
            raise DiptychError(f"cache {self.folder.parent}: not shared by all ranks; choose a folder that all see")

    def read(self, layer: int, pooling: int) -> FloatArray:
        """One representation of all texts, shape [texts, width], mapped from the file and not writable."""
        _, poolings, texts, width = self.shape
        if not texts:
            return np.empty((0, width), np.float32)
        place = (layer * poolings + pooling) * texts * width * 4
        return np.memmap(self.states, np.float32, "r", offset=place, shape=(texts, width)).view(np.ndarray)

    def _unwritable(self, error: OSError) -> DiptychError:
        return DiptychError(
            f"cache {self.folder.parent}: cannot be written ({error.strerror or error}); free space or choose another"
        )
