"""Progress of long work: a bar in a terminal, elsewhere a line now and then."""

import sys
import time
from types import TracebackType
from typing import Any

import tqdm

EVERY = 30.0
"""Seconds between two lines where there is no terminal."""


class Progress:
    """Counts finished units of work.

    Without a terminal a line comes every ``EVERY`` seconds, and one at the end of work that took longer.

    Args:
        title: Of the work.
        total: How many units it has.
        unit: What they are called, in the singular.
        shown: Whether this process says anything.
    """

    def __init__(self, title: str, total: int, unit: str, *, shown: bool = True) -> None:
        self._title, self._total, self._unit, self._done = title, total, unit, 0
        terminal = sys.stderr.isatty()
        self._bar: Any = tqdm.tqdm(total=total, desc=title, unit=unit, disable=not (shown and terminal))
        self._lines = shown and not terminal
        self._start = self._last = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        if self._lines and kind is None and time.monotonic() - self._start >= EVERY:
            self._say(f"done in {_duration(time.monotonic() - self._start)}")

    def advance(self, count: int = 1) -> None:
        """Counts some units as done."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """Says how many units are done in all."""
        self._bar.update(done - self._done)
        self._done = done
        now = time.monotonic()
        if self._lines and done < self._total and now - self._last >= EVERY:
            self._last = now
            left = (now - self._start) * (self._total - done) / done if done else 0.0
            self._say(f"about {_duration(left)} left" if done else "")

    def _say(self, rest: str) -> None:
        units = self._unit if self._total == 1 else f"{self._unit}s"
        line = f"{self._title}: {self._done:,} of {self._total:,} {units}"
        print(f"{line}, {rest}" if rest else line, file=sys.stderr, flush=True)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
