"""Steps with their batches, built while the step before trains."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor

from pretrain.data.batch import Batch, BatchBuilder
from pretrain.data.schedule import Schedule, Step


def prefetch(
    schedule: Schedule, builder: BatchBuilder, first: int, stop: int
) -> Generator[tuple[Step, list[Batch]], None, None]:
    """Steps ``first`` to ``stop`` (exclusive) with this rank's micro-batches."""

    def build(index: int) -> tuple[Step, list[Batch]]:
        step = schedule.step(index)
        return step, [builder.build(micro_batch) for micro_batch in step.micro_batches]

    with ThreadPoolExecutor(1) as background:
        following = background.submit(build, first) if first < stop else None
        for index in range(first, stop):
            assert following is not None
            current = following.result()
            following = background.submit(build, index + 1) if index + 1 < stop else None
            yield current
