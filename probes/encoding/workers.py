"""Batches side by side on the CPU: each on a thread of its own, instead of all threads within each operator.

The matrices of a batch that fits the caches are too small to be cut up among threads with profit.
"""

import copy
import queue
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, TypeVar

import torch

from probes.encoding.packed_linear import PackedLinear, pack_linear_layers

Item = TypeVar("Item")
Result = TypeVar("Result")


class Workers:
    """Threads that run one model, until they are closed.

    Args:
        base: The model. Each thread gets a twin of its modules with the same tensors, so that hooks, and what a forward
            pass leaves on a module, stay apart; on the CPU with packed linear layers.
        threads: Processor threads to use in all; 1: no further thread is started.
    """

    def __init__(self, base: Any, threads: int) -> None:
        self.threads = threads
        self._pool: ThreadPoolExecutor | None = None
        self._workers = 1
        self._twins = [twin(base)]
        pack_linear_layers(self._twins[0])

    def close(self) -> None:
        """Ends the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def map(self, compute: Callable[[Any, Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Yields ``compute(model, item)`` of all items in their order; it runs in inference mode."""
        workers = min(self.threads, len(items))
        if workers < 2:
            yield from (_infer(compute, self._twins[0], item) for item in items)
            return
        self._twins += [twin(self._twins[0]) for _ in range(workers - len(self._twins))]
        models: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for model in self._twins[:workers]:
            models.put(model)

        def one(item: Item) -> Result:
            model = models.get()
            try:
                return _infer(compute, model, item)
            finally:
                models.put(model)

        before = torch.get_num_threads()
        try:
            yield from self._started(workers).map(one, items)
        finally:
            torch.set_num_threads(before)

    def _started(self, workers: int) -> ThreadPoolExecutor:
        """So many threads; the same ones as long as the number is, for each new one takes memory of its own."""
        if self._pool is None or workers != self._workers:
            self.close()
            # What the items leave over is used within operators. OpenMP keeps the number of threads for each thread
            # that starts some, and torch hands the number that was set last to threads yet to come.
            self._pool = ThreadPoolExecutor(
                workers, initializer=torch.set_num_threads, initargs=(self.threads // workers,)
            )
            self._workers = workers
        return self._pool


def twin(model: Any) -> Any:
    """A copy of a model's modules that shares their parameters, buffers and packed weights."""
    packed = (module.packed for module in model.modules() if isinstance(module, PackedLinear))
    return copy.deepcopy(model, {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers(), packed)})


@torch.inference_mode()
def _infer(compute: Callable[[Any, Item], Result], model: Any, item: Item) -> Result:
    return compute(model, item)
