"""A child process for what models wrote: it may use little time and memory, and is killed where it uses more.

A limit that is checked within a library holds only where the library checks it. A process can be killed anywhere.
"""

import contextlib
import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import pretrain
from finetune.tasks import untrusted
from finetune.tasks.untrusted import Failed, OverLimit
from pretrain.runtime.errors import DiptychError

_ROOT: Final = str(Path(pretrain.__file__).resolve().parents[1])
_BLOCK: Final = 1 << 20
_START_SECONDS: Final = 60
_NO_START: Final = "the process that looks at answers does not start"


@lru_cache
def confined(seconds: float) -> "Confined":
    """The process whose requests may take this much CPU time (seconds) each."""
    return Confined(seconds)


class Confined:
    """A process that answers requests about untrusted text one by one; started when needed, and again when killed.

    Args:
        seconds: CPU time per request. As much as five times that may pass on the clock, and five seconds more.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0  # a fork of this process must not write to the same pipe
        self._end: Callable[[], object] = lambda: None

    def query(self, database: Path, sql: str) -> list[list[Any]]:
        """The rows that a query gives; see ``untrusted.query``.

        Raises:
            Failed: It is no SELECT on that database, or asks for something that is refused.
            OverLimit: It takes too much.
        """
        rows: list[list[Any]] = self._ask("query", os.path.abspath(database), sql)
        return rows

    def differ(self, left: str, right: str, max_states: int) -> str | None:
        """A shortest line that exactly one of two regexes matches; None: they mean the same.

        Raises:
            Failed: One of them is no regex.
            OverLimit: It takes too much.
        """
        line: str | None = self._ask("differ", left, right, max_states)
        return line

    def _ask(self, job: str, *arguments: str | int) -> Any:
        if any(isinstance(argument, str) and len(argument) > untrusted.MAX_TEXT for argument in arguments):
            raise OverLimit(f"more than {untrusted.MAX_TEXT:,} characters")
        process = self._running()
        try:
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # then there is no reply
                process.stdin.write(json.dumps([job, *arguments]).encode() + b"\n")
            reply = _line(process, 5 * self._seconds + 5)
        except BaseException:  # an interrupt: the reply would be taken for that of the next request
            self._end()
            raise
        if reply is None:
            self._end()
            raise OverLimit(f"more than {self._seconds:g} s or too much memory")
        kind, value = json.loads(reply)
        if kind == "failed":
            raise Failed(value)
        if kind == "limit":
            raise OverLimit(value)
        return value

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is not None and self._owner == os.getpid() and self._process.poll() is None:
            return self._process
        self._end()
        # Isolated (-I) and without site packages (-S): nothing of the environment or the folder is imported.
        command = [sys.executable, "-I", "-S", untrusted.__file__, _ROOT, str(self._seconds)]
        try:
            process = subprocess.Popen(
                command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd="/"
            )
        except OSError as error:
            raise DiptychError(f"{sys.executable}: {_NO_START} ({error}); free memory or processes") from error
        self._process, self._owner = process, os.getpid()
        self._end = weakref.finalize(self, _end, process, self._owner)
        if _line(process, _START_SECONDS) != b"ready\n":
            self._end()
            raise DiptychError(f"{sys.executable} {untrusted.__file__}: {_NO_START}; run it so to see why")
        return process


def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes | None:
    """The next line that the process writes; None where it ends before, or the time is over."""
    assert process.stdout is not None
    deadline = time.monotonic() + seconds
    line = bytearray()
    while not line.endswith(b"\n"):
        if not select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            return None
        block = os.read(process.stdout.fileno(), _BLOCK)
        if not block:
            return None
        line += block
    return bytes(line)


def _end(process: subprocess.Popen[bytes], owner: int) -> None:
    if os.getpid() != owner:
        return
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()
    process.wait()
