"""Signals that ask a run to stop: Slurm's USR1 before a time limit or a preemption, TERM of whoever ends a job.

Until a run trains, a signal ends the process at once: what preparation has finished is found again. From then on it is
kept until all ranks have agreed on a step to stop after (the request travels with a reduction that every step makes
anyway), so that the checkpoint is one of the same step on all ranks.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)


class Preempted(BaseException):
    """The process was asked to stop and can be started again to go on.

    Like KeyboardInterrupt no ``Exception``: it is raised anywhere, and what handles failures must not take it for one.
    """


class Preemption:
    """What this process was asked.

    Attributes:
        received: Name of the first signal; None: there was none.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._when = 0.0
        self._kept = False

    def listen(self, words: str = "before training began; start it again to go on") -> None:
        """Takes the signals from now on; child processes keep their defaults.

        Args:
            words: What is said of a stop outside of ``kept``.
        """
        owner = os.getpid()

        def receive(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:  # a forked worker, which has no checkpoint to write
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
                return
            if self.received is not None:  # it is stopping already
                return
            self.received, self._when = signal.Signals(number).name, time.monotonic()
            if not self._kept:
                raise Preempted(f"stopped by {self.received} {words}")

        for each in SIGNALS:
            signal.signal(each, receive)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """While a run trains, a signal is only noted."""
        self._kept = True
        try:
            yield
        finally:
            self._kept = False

    def seconds_since(self) -> float:
        """Seconds since the signal came; 0 if this process got none."""
        return time.monotonic() - self._when if self.received else 0.0


preemption = Preemption()
"""Of this process: signal handlers are one for the whole process."""
