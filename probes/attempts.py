"""Tasks that may fail on their own: a failure is noted, and the other tasks go on."""

import itertools
import traceback
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch
import tqdm

from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from probes.progress import Progress

T = TypeVar("T")


class Attempts:
    """Runs tasks that may fail, on all ranks.

    Attributes:
        problems: What failed, one sentence each.
        notes: What was done differently from what was asked, one sentence each.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.problems: list[str] = []
        self.notes: list[str] = []

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """The result of an action; None, with a note, if it fails on any rank. Collective."""
        try:
            return self.ranks.agree(partial(_explained, what, action), long=True)
        except DiptychError as error:
            self.problem(str(error))
            return None

    def part(self, what: str, make: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        """A part of the report; empty, with a note, if it fails."""
        try:
            return _explained(what, lambda: tuple(make()))
        except (DiptychError, OSError) as error:
            self.problem(str(error))
            return ()

    def shared(self, title: str, tasks: Sequence[Any], work: Callable[[Any], T]) -> list[T | None]:
        """Results of all tasks, which the ranks share; None, with a note, where one failed. Collective."""
        own: list[tuple[int, T | None, str | None]] = []
        mine = range(self.ranks.rank, len(tasks), self.ranks.world_size)

        def work_on_own() -> None:
            with Progress(title, len(mine), "probe", shown=self.ranks.is_main) as progress:
                for number in mine:
                    try:
                        what = f"{title}, {', '.join(map(str, tasks[number]))}"
                        own.append((number, _explained(what, partial(work, tasks[number])), None))
                    except (DiptychError, OSError) as error:
                        own.append((number, None, str(error)))
                    progress.advance()

        self.ranks.agree(work_on_own, long=True)
        results: list[T | None] = [None] * len(tasks)
        for number, result, problem in sorted(itertools.chain(*self.ranks.gather(own)), key=lambda item: item[0]):
            results[number] = result
            if problem is not None:
                self.problem(problem)
        return results

    def problem(self, text: str) -> None:
        """Notes what could not be done."""
        self.problems.append(text)
        self.say(f"problem: {text}")

    def note(self, text: str) -> None:
        """Notes what was done differently from what was asked."""
        self.notes.append(text)
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """Prints a line above a progress bar."""
        if self.ranks.is_main:
            tqdm.tqdm.write(text)


def _explained(what: str, action: Callable[[], T]) -> T:
    """An action's result.

    Raises:
        DiptychError: It failed for any reason; other sets and models go on.
        OSError: From the file system, which all ranks see alike.
    """
    try:
        return action()
    except (DiptychError, OSError):
        raise
    except Exception as error:
        expected = isinstance(error, ValueError | MemoryError | torch.OutOfMemoryError)  # of scikit-learn, of a device
        if not expected:
            traceback.print_exc()
        kind = "" if expected and str(error) else f"{type(error).__name__}: "
        raise DiptychError(f"{what}: {kind}{' '.join(str(error).split())[:300]}") from error
