"""Bytes of one rank by part at each moment of a step, and of its node's host memory."""

from collections.abc import Mapping
from dataclasses import dataclass

from launch.planner.devices import device_memory
from launch.planner.job import Job
from pretrain.footprint.states import Parts, model_states, moments

CONTEXT = 3 * 2**29
"""Assumed bytes of a CUDA context, its libraries and NCCL's buffers; on the CPU, of the interpreter with torch."""

FRAGMENTATION = 0.05
"""Assumed share of the allocator's memory that no tensor uses, on a GPU."""

HOST_OF_RANK = 4 * 2**30
"""Assumed host memory of a process on a GPU node: interpreter, libraries, batches."""


@dataclass(frozen=True)
class MemoryUse:
    """The memory that one rank needs.

    Attributes:
        moments: For each moment of a step the bytes on the device by part.
        host: Bytes in host memory of a node by part, over its ranks.
        available: Bytes of the device.
        host_available: Bytes of host memory of a node.
    """

    moments: Mapping[str, Parts]
    host: Parts
    available: int
    host_available: int

    @property
    def peak_moment(self) -> str:
        """The moment that needs most."""
        return max(self.moments, key=lambda moment: sum(self.moments[moment].values()))

    @property
    def parts(self) -> Parts:
        """The device's bytes by part at the peak."""
        return self.moments[self.peak_moment]

    @property
    def device(self) -> int:
        """The device's bytes at the peak."""
        return sum(self.parts.values())

    @property
    def host_total(self) -> int:
        """The host's bytes of a node."""
        return sum(self.host.values())

    @property
    def fits(self) -> bool:
        """Whether device and host have the room."""
        return self.device <= self.available and self.host_total <= self.host_available


def plan_memory(job: Job) -> MemoryUse:
    """Estimates the memory of a rank and of its node."""
    device, host = model_states(job)
    machines, on_cpu = job.machines, job.machines.gpu.is_cpu
    parts_of = {}
    for name, extra in moments(job).items():
        parts = {part: size for part, size in (device | extra).items() if size}
        if not on_cpu:
            parts["fragmentation"] = int(FRAGMENTATION * sum(parts.values()))
        parts["context"] = CONTEXT
        parts_of[name] = parts
    ranks = machines.ranks_of_node
    if job.config.checkpoint.asynchronous:
        host["checkpoint being written"] = 12 * job.counts.trained // machines.gpus
    if not on_cpu:
        host["processes"] = HOST_OF_RANK
    return MemoryUse(
        parts_of,
        {part: size * ranks for part, size in host.items() if size},
        device_memory(machines.gpu, ranks),
        machines.host_memory if not on_cpu else device_memory(machines.gpu, 1),
    )
