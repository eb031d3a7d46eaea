"""Ends a process that makes no progress, with its stack traces, so that a hang is never silent."""

import faulthandler
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pretrain.runtime.command import HUNG
from pretrain.runtime.errors import DiptychError

_REMEMBERED = 20
_LAST_WORDS = 10.0
"""Seconds before this process ends, in which other ranks write their reports: its end breaks their collectives."""


class Watchdog:
    """A thread that ends the process if no progress is reported for too long.

    A rank that hangs or is lost keeps the others waiting in a collective: then every rank's watchdog ends its own
    process, with exit status 86. Time in which the process was stopped as a whole (SIGSTOP, ``scontrol suspend``) does
    not count, nor do jumps of the clock.
    """

    def __init__(self, folder: Path, rank: int, limit_minutes: float) -> None:
        """Starts watching.

        Args:
            folder: Where ``rank-N-TIME.txt`` goes; made when it is needed.
            rank: Of this process.
            limit_minutes: Longest time between two beats; 0: it never ends the process.
        """
        self._folder, self._rank = folder, rank
        self._limit = 60 * limit_minutes
        self._left = self._limit
        self._beats: deque[tuple[float, str]] = deque(maxlen=_REMEMBERED)
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self.beat("start", patience=3)
        if limit_minutes:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def beat(self, doing: str, patience: float = 1) -> None:
        """Reports progress: a new piece of work begins.

        Args:
            doing: What it is, for the report.
            patience: How many times the limit it may take.
        """
        with self._lock:
            self._beats.append((time.monotonic(), doing))
            self._left = patience * self._limit

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Within it, an unexpected exception (a bug, or a lost rank) leaves the same report as a hang."""
        try:
            yield
        except DiptychError:
            raise
        except Exception as error:
            self.report(f"ended by {type(error).__name__}: {error}")
            raise

    def close(self) -> None:
        """Stops watching."""
        self._closed.set()

    def _watch(self) -> None:
        tick = min(1.0, self._limit / 10)
        before = time.monotonic()
        while not self._closed.wait(tick):
            now = time.monotonic()
            with self._lock:
                self._left -= min(now - before, 2 * tick)
                expired = self._left <= 0
            before = now
            if expired:
                self._end()

    def report(self, why: str) -> None:
        """Writes the last steps and the stack of every thread to the folder, or to stderr if that fails."""
        now = time.monotonic()
        lines = [f"rank {self._rank}, process {os.getpid()} on {socket.gethostname()}, {time.strftime('%F %T')}"]
        lines += [why, "", "seconds ago, what began:"]
        lines += [f"{now - when:10.1f}  {what}" for when, what in self._beats]
        try:
            self._folder.mkdir(exist_ok=True)
            path = self._folder / f"rank-{self._rank:05d}-{time.strftime('%Y%m%dT%H%M%S')}.txt"
            with path.open("w", encoding="utf-8") as file:
                file.write("\n".join([*lines, "", "stack of every thread:", ""]))
                file.flush()
                faulthandler.dump_traceback(file, all_threads=True)
        except OSError:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)

    def _end(self) -> None:
        # The hang may be the file system's; then writing the report never returns.
        last = threading.Timer(3 * _LAST_WORDS, os._exit, (HUNG,))
        last.daemon = True
        last.start()
        when, doing = self._beats[-1]
        print(
            f"error: rank {self._rank}: no progress for {time.monotonic() - when:.0f} s ({doing}; train.hang_minutes); "
            f"stack traces of all ranks are in {self._folder}. Start the run again to go on from its last checkpoint",
            file=sys.stderr,
            flush=True,
        )
        self.report(f"no progress since: {doing}")
        time.sleep(_LAST_WORDS)
        os._exit(HUNG)
