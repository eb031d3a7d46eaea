"""Work that may fail without the loss of what was done before: what failed is noted, and the rest goes on."""

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
    """Tries things on all ranks.

    Attributes:
        problems: What could not be done, one sentence each.
        notes: What was done otherwise than asked, one sentence each.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        self.problems: list[str] = []
        self.notes: list[str] = []

    def attempt(self, what: str, action: Callable[[], T]) -> T | None:
        """An action's result; None if it fails on any rank, which is noted. Collective."""
        try:
            return self.ranks.agree(partial(_explained, what, action), long=True)
        except DiptychError as error:
            self.problem(str(error))
            return None

    def part(self, what: str, make: Callable[[], Iterable[T]]) -> tuple[T, ...]:
        """A part of the report; nothing of it where it fails."""
        try:
            return _explained(what, lambda: tuple(make()))
        except (DiptychError, OSError) as error:
            self.problem(str(error))
            return ()

    def shared(self, title: str, tasks: Sequence[Any], work: Callable[[Any], T]) -> list[T | None]:
        """Work on every task, shared by the ranks; None where it failed, which is noted. Collective."""
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
        """Notes what was done otherwise than asked."""
        self.notes.append(text)
        self.say(f"note: {text}")

    def say(self, text: str) -> None:
        """Prints a line, beside a bar."""
        if self.ranks.is_main:
            tqdm.tqdm.write(text)


def _explained(what: str, action: Callable[[], T]) -> T:
    """An action's result.

    Raises:
        DiptychError: It failed, whatever with: other sets and models go on.
        OSError: Of the file system, which ranks look at together.
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
