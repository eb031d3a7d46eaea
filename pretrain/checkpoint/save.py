"""One save of a checkpoint on one rank: what it writes, at once or in a thread beside training."""

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
"""State in one file; also what a rank holds back before it writes, if it writes at once."""

Part = tuple[str, dict[str, Tensor]]
"""A file's name and content."""


class Save:
    """A save in flight, as one rank has it.

    Attributes:
        step: Of the checkpoint.
        state: What it says besides tensors.
        scratch: Where it is written to.
        keep: A step that is not pruned after it.
        files: Size and checksum of this rank's files that are written, by name.
        began: When, on the clock of ``time.perf_counter``.
        stall: Seconds for which it held up training so far.
        write_seconds: Until this rank's files were written.
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
        """Writes files, to the end of ``parts`` even if one fails: the ranks may be gathering them together."""
        for name, tensors in parts:
            if self._problem is None:
                try:
                    self.files[name] = write_tensors(self.scratch / name, tensors)
                except (DiptychError, OSError) as error:
                    self._problem = error
                except Exception as error:  # of a thread nobody would hear of it
                    why = f"{type(error).__name__}: {error}"
                    self._problem = DiptychError(f"{self.scratch / name}: cannot be written ({why})")
            tensors.clear()
        self.write_seconds = time.perf_counter() - self.began

    def write_aside(self, parts: list[Part]) -> None:
        """Writes files in a thread. A daemon: the end of the process does not wait for what was not committed."""
        self._thread = threading.Thread(target=self.write, args=(parts,), name="checkpoint", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Waits for the files.

        Raises:
            DiptychError: One of them could not be written.
            OSError: The same, for a reason that may pass.
        """
        if self._thread is not None:
            self._thread.join()
        if self._problem is not None:
            raise self._problem


def parts(engine: Any, canary: Mapping[str, Tensor], rank: int) -> Iterator[Part]:
    """A rank's files of a checkpoint, on the CPU. Collective: all ranks go to its end together.

    Rank 0 adds what every rank has: the model's fixed state, and the canary.
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
