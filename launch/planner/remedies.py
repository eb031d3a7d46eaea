"""The first change of settings that makes a plan fit, found by planning again."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from launch.planner.job import Job, Machines
from launch.planner.memory import CONTEXT, MemoryUse, plan_memory
from pretrain.config.sections import Config
from pretrain.footprint.states import model_states
from pretrain.runtime.errors import DiptychError

SMALL_CHUNK = 1024
"""Label tokens per call of the LM head below which little more is saved."""
MOST_GPUS = 16384


@dataclass(frozen=True)
class Remedy:
    """A change of settings or machines, and the plan with it.

    Attributes:
        settings: As ``key=value``.
        gpus: Number of GPUs, if there must be more.
        memory: With the change.
        job: With the change.
    """

    settings: tuple[str, ...]
    gpus: int | None
    memory: MemoryUse
    job: Job

    @property
    def text(self) -> str:
        """As it is typed."""
        return " ".join([*self.settings, *([f"--gpus {self.gpus}"] if self.gpus else [])])


def find_remedy(job: Job, plan_again: Callable[[Sequence[str], Machines], Job]) -> Remedy | None:
    """The first candidate that fits.

    Args:
        job: What does not fit.
        plan_again: Makes a job of further settings and other machines.

    Returns:
        The remedy, or None if no candidate fits.
    """
    for settings, gpus in candidates(job.config, job.machines.gpus):
        try:
            changed = plan_again(settings, replace(job.machines, gpus=gpus))
        except DiptychError:  # the settings contradict each other
            continue
        if _hopeless(changed):
            continue
        memory = plan_memory(changed)
        if memory.fits:
            return Remedy(settings, gpus if gpus != job.machines.gpus else None, memory, changed)
    return None


def candidates(config: Config, gpus: int) -> Iterator[tuple[tuple[str, ...], int]]:
    """Changes in the order in which they are tried: single ones by the time they cost, then combined, then more GPUs.

    Each is tried with the rows of a micro-batch as they are, then halved down to one: accumulation follows.
    """
    rows = [config.train.micro_batch_rows]
    while rows[-1] > 1:
        rows.append(rows[-1] // 2)
    recompute = () if config.model.activation_checkpointing else ("model.activation_checkpointing=true",)
    small = config.train.loss_chunk_tokens > SMALL_CHUNK
    chunk = (f"train.loss_chunk_tokens={SMALL_CHUNK}",) if small else ()
    stages = [(f"deepspeed.zero_stage={stage}",) for stage in range(config.deepspeed.zero_stage + 1, 4)]
    both, whole = recompute + chunk, recompute + chunk + (stages[-1] if stages else ())
    optimizer = () if config.deepspeed.offload_optimizer else ("deepspeed.offload_optimizer=true",)
    parameters = () if config.deepspeed.offload_parameters else ("deepspeed.offload_parameters=true",)
    offloaded = [whole + optimizer, whole + optimizer + parameters]
    tried: set[tuple[str, ...]] = {()}
    for row in rows[1:]:
        yield (f"train.micro_batch_rows={row}",), gpus
    for bundle in ((), recompute, chunk, *stages, both, whole, *offloaded):
        if bundle in tried:
            continue
        tried.add(bundle)
        for row in rows:
            yield bundle + ((f"train.micro_batch_rows={row}",) if row != rows[0] else ()), gpus
    more = gpus * 2
    while more <= MOST_GPUS:
        for bundle in dict.fromkeys((stages[-1] if stages else (), whole)):
            for row in (rows[0], 1):
                yield bundle + ((f"train.micro_batch_rows={row}",) if row != rows[0] else ()), more
        more *= 2


def _hopeless(job: Job) -> bool:
    """Whether the states alone are too large, which is known without a trace."""
    device, _ = model_states(job)
    available = job.machines.gpu.memory
    return bool(available) and sum(device.values()) + CONTEXT > available
