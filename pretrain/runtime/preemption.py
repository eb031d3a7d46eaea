"""Signals that ask a process to stop: USR1 from Slurm before a time limit or a preemption, or TERM.

What a signal does depends on what it would interrupt:

    while a program is imported    it ends the process with status 85
    before a run trains            it raises :class:`Preempted`: what preparation has finished is kept
    while a run trains             it is recorded, and all ranks leave together: after a step, whose reduction carries
                                   the request, or before a batch of an evaluation (``leaving.leave_if_asked``)
    when the outcome is known      it ends the process with the status of the outcome

This module imports nothing that takes long, so that a program can listen before it imports what does.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGUSR1, signal.SIGTERM)

REQUEUE = 85
"""Exit status of a process that was asked to stop; started again, it resumes."""


class Preempted(BaseException):
    """The process was asked to stop; started again, it resumes.

    Like KeyboardInterrupt it is no ``Exception``: it may be raised anywhere, and no handler of failures may catch it.
    """


class Preemption:
    """The request to stop that this process got, if any.

    Attributes:
        received: Name of the first signal; None: there was none.
        words: End of the message of a run that is stopped before it trains.
        together: Set when a run begins to train: from then on all ranks leave at the same point.
    """

    together = False

    def __init__(self) -> None:
        self.received: str | None = None
        self.words = "before its end; start it again"
        self._when = 0.0
        self._answer: Callable[[], None] = self._end
        self._listener: int | None = None
        self._outcome: int | None = None

    def listen(self) -> None:
        """Installs the signal handlers; child processes keep the default ones. A second call does nothing."""
        if self._listener == os.getpid():
            return
        self._listener = os.getpid()
        for each in SIGNALS:
            signal.signal(each, self._receive)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._listener:  # a forked worker, which has no checkpoint to write
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        if self._outcome is not None:
            os._exit(self._outcome)
        if self.received is not None:  # it is stopping already
            return
        self.received, self._when = signal.Signals(number).name, time.monotonic()
        self._answer()

    def _end(self) -> None:
        if os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0":
            os.write(2, f"stopped by {self.received} {self.words}\n".encode())
        os._exit(REQUEUE)

    def _note(self) -> None:
        pass

    def check(self) -> None:
        """Raises :class:`Preempted` if there was a signal."""
        if self.received is not None:
            raise Preempted(f"stopped by {self.received} {self.words}")

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Within it a signal raises :class:`Preempted` in the main thread; an earlier signal raises it at once.

        While a run trains: for long work of one rank, such as an export, that :meth:`Ranks.agree` runs, so that the
        other ranks stop as well.
        """
        with self._answering(self.check):
            self.check()
            yield

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within it a signal is only recorded."""
        self.together = True
        with self._answering(self._note):
            yield

    @contextmanager
    def _answering(self, answer: Callable[[], None]) -> Iterator[None]:
        before, self._answer = self._answer, answer
        try:
            yield
        finally:
            self._answer = before

    def decided(self, status: int) -> None:
        """Says with which status the process is about to end; a signal from now on ends it with that status at once."""
        self._outcome = status

    def seconds_since(self) -> float:
        """Seconds since the signal came; 0 if this process got none."""
        return time.monotonic() - self._when if self.received else 0.0


preemption = Preemption()
"""The only instance, because signal handlers belong to the whole process."""
