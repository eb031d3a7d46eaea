"""Running the tasks of a stage in worker processes, with one progress bar."""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import tqdm

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.preemption import SIGNALS, Preempted, preemption

Task = TypeVar("Task")
Result = TypeVar("Result")

_progress: Any = None  # shared with the main process in a worker, None in the main process itself
_bar: Any = None  # of the main process, when it works alone


def advance(amount: int) -> None:
    """Moves the bar of the running stage; called by tasks."""
    if _progress is not None:
        with _progress.get_lock():
            _progress.value += amount
    elif _bar is not None:
        _bar.update(amount)


class WorkerPool:
    """A number of processes; one: the tasks run in this process."""

    def __init__(self, count: int, *, quiet: bool) -> None:
        self.count = count
        self.quiet = quiet

    def run(
        self,
        title: str,
        function: Callable[[Task], Result],
        tasks: Sequence[Task],
        *,
        total: int,
        unit: str = " records",
    ) -> Iterator[Result]:
        """Yields the results in the order of the tasks.

        Args:
            title: What the bar says.
            function: A module-level function; it calls :func:`advance`.
            tasks: What it is called with; pickled.
            total: What the calls of ``advance`` add up to.
            unit: Of ``total``.

        Raises:
            DiptychError: A task raised it, or a worker died.
        """
        global _bar
        disable = self.quiet or not sys.stderr.isatty()
        with tqdm.tqdm(desc=f"{title:>9}", total=total, unit=unit, unit_scale=True, disable=disable) as bar:
            if self.count == 1 or len(tasks) <= 1:
                _bar = bar
                try:
                    yield from map(function, tasks)
                finally:
                    _bar = None
            else:
                yield from self._in_processes(function, tasks, bar)
            bar.update(total - bar.n)

    def _in_processes(self, function: Callable[[Task], Result], tasks: Sequence[Task], bar: Any) -> Iterator[Result]:
        context = multiprocessing.get_context("spawn")  # a fork would copy the threads' locks of torch and tokenizers
        progress = context.Value("q", 0)
        pool = ProcessPoolExecutor(min(self.count, len(tasks)), context, initializer=_start, initargs=(progress,))
        running: dict[Future[Result], int] = {}
        done: dict[int, Future[Result]] = {}
        submitted = yielded = 0
        try:
            while yielded < len(tasks):
                # A few tasks ahead of the workers; finished results wait for their turn.
                while submitted < len(tasks) and len(running) < 2 * self.count and submitted - yielded < 8 * self.count:
                    running[pool.submit(function, tasks[submitted])] = submitted
                    submitted += 1
                finished, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                bar.update(progress.value - bar.n)
                for future in finished:
                    done[running.pop(future)] = future
                # Failures, too, come in the order of the tasks: the same one is reported for any number of workers.
                while yielded in done:
                    yield done.pop(yielded).result()
                    yielded += 1
        except BrokenProcessPool:
            time.sleep(0.1)  # a signal that ended a worker may be about to reach this process
            preemption.check()
            raise DiptychError(
                "data.workers: a worker process was killed, perhaps for want of memory; start again with fewer "
                "data.workers: what is finished is kept"
            ) from None
        except Preempted:
            for process in multiprocessing.active_children():
                process.kill()  # the file that it was writing has not got its name yet
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start(progress: Any) -> None:
    global _progress
    _progress = progress
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core a worker
    for each in SIGNALS:  # Slurm sends them to every process of a step: the parent decides
        signal.signal(each, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Ends a worker whose parent was killed; it would wait for tasks for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def choose_count(asked: int | None, work: int) -> int:
    """How many processes to use: as many as asked for, else one per core; a single one for little work.

    Args:
        asked: ``data.workers``.
        work: Bytes of all sources.
    """
    if asked is not None:
        return asked
    little = 16 << 20  # starting processes costs seconds
    if work < little:
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
