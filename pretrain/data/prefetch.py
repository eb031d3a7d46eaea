"""Steps with their batches, built while the steps before train."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from pretrain.data.batch import Batch, BatchBuilder
from pretrain.data.schedule import Schedule, Step

AHEAD = 2
"""Steps that are built before they are asked for, at most."""


def prefetch(
    schedule: Schedule, builder: BatchBuilder, first: int, stop: int, *, pin: bool = False
) -> Generator[tuple[Step, list[Batch]], None, None]:
    """Steps ``first`` to ``stop`` (exclusive) with this rank's micro-batches.

    They are built in a thread: numpy releases the interpreter lock. Its failures are raised here, at the step that
    failed; closing the generator ends it.

    Args:
        schedule: Of the run.
        builder: Of the training split.
        first: The first step.
        stop: The step after the last.
        pin: Build in page-locked memory, which copies to this thread's CUDA device while that computes.
    """

    def build(index: int) -> tuple[Step, list[Batch]]:
        step = schedule.step(index)
        batches = builder.build_all(step.micro_batches)
        return step, [batch.pinned() for batch in batches] if pin else batches

    # A thread begins at device 0; page-locked memory would make a context there.
    set_device = (torch.cuda.set_device, (torch.cuda.current_device(),)) if pin else (None, ())
    background = ThreadPoolExecutor(1, "row building", *set_device)
    try:
        ahead: deque[Future[tuple[Step, list[Batch]]]] = deque()
        for index in range(first, stop + AHEAD):
            if index < stop:
                ahead.append(background.submit(build, index))
            if index >= first + AHEAD:
                yield ahead.popleft().result()
    finally:
        background.shutdown(cancel_futures=True)
