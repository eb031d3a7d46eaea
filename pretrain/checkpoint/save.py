"""One save of a checkpoint on one rank: its files, written at once or by a thread beside training."""

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from pretrain.checkpoint.files import write_tensors
from pretrain.engine.state import gather_state
from pretrain.model.fixed_state import gather_fixed_state
from pretrain.runtime.errors import DiptychError

PART_BYTES = 2**30
"""Bytes of state in one file; a rank that writes at once buffers no more than that."""

Part = tuple[str, dict[str, Tensor]]
"""A file's name and content."""


class Save:
    """One rank's part of a save in flight.

    Attributes:
        step: Step of the checkpoint.
        state: Its contents besides tensors.
        scratch: The folder that it is written to.
        keep: A step that must not be pruned when it is committed.
        files: Size and checksum of each file that this rank has written, by name.
        began: Start time, by ``time.perf_counter``.
        stall: Seconds for which it has held up training so far.
        write_seconds: Seconds until this rank's files were written.
    """

    def __init__(self, step: int, state: Mapping[str, Any], scratch: Path, keep: int | None) -> None:
        self.step = step
        self.state = state
        self.scratch = scratch
        self.keep = keep
        self.files: dict[str, dict[str, Any]] = {}
        self.began = time.perf_counter()
        self.stall = 0.0
        self.write_seconds = 0.0
        self._problem: Exception | None = None
        self._thread: threading.Thread | None = None

    @property
    def written(self) -> bool:
        """True once all files are written, or cannot be."""
        return self._thread is None or not self._thread.is_alive()

    def write(self, parts: Iterable[Part]) -> None:
        """Writes files. ``parts`` is consumed to its end even if one fails, because it may gather collectively."""
        for name, tensors in parts:
            if self._problem is None:
                try:
                    self.files[name] = write_tensors(self.scratch / name, tensors)
                except (DiptychError, OSError) as error:
                    self._problem = error
                except Exception as error:  # an exception in a thread would be lost
                    why = f"{type(error).__name__}: {error}"
                    self._problem = DiptychError(f"{self.scratch / name}: cannot be written ({why})")
            tensors.clear()
        self.write_seconds = time.perf_counter() - self.began

    def write_aside(self, parts: list[Part]) -> None:
        """Writes files in a daemon thread, so that the end of the process does not wait for it."""
        self._thread = threading.Thread(target=self.write, args=(parts,), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Waits until the files are written.

        Raises:
            DiptychError: One of them could not be written.
            OSError: The same, for a reason that may pass.
        """
        if self._thread is not None:
            self._thread.join()
        if self._problem is not None:
            raise self._problem


def parts(engine: Any, canary: Mapping[str, Tensor], rank: int) -> Iterator[Part]:
    """A rank's files of a checkpoint, on the CPU. Collective: all ranks must consume it together.

    Rank 0 adds what is equal on all ranks: the model's fixed state and the canary.
    """
    pending: dict[str, Tensor] = {}
    size = number = 0
    for name, tensors in gather_state(engine):
        for kind, tensor in tensors.items():
            pending[f"{name.removeprefix('lm.')}/{kind}"] = tensor
            size += tensor.numel() * tensor.element_size()
        if size >= PART_BYTES:
            yield f"state-{rank:05d}-{number:03d}.safetensors", pending
            pending, size, number = {}, 0, number + 1
    if pending:
        yield f"state-{rank:05d}-{number:03d}.safetensors", pending
    fixed = gather_fixed_state(engine.module.lm)
    if rank == 0:
        if fixed:
            yield "buffers.safetensors", fixed
        yield "canary.safetensors", dict(canary)
