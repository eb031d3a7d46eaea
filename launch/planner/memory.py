"""Bytes of one rank by part, at each moment of a step; where DeepSpeed 0.19.8 keeps what was read in its source.

=========== ============ ============ ==================== ========================= ========================
stage       weights      masters      gradients, always    gradients of a pass       while they are reduced
=========== ============ ============ ==================== ========================= ========================
0, fp32     4P                                             4N                        a copy of a bucket
0, bf16     2P           4N                                2N                        a copy of a bucket
1, fp32     4P           4N/W                              4N                        a bucket and its copy
1, bf16     2P           4N/W         4N                   2N                        a copy of a bucket
2, fp32     4P           4N/W         4N/W (left behind)   4N/W                      a bucket and its copy
2, bf16     2P           4N/W                              4N/W                      a bucket and its copy
3           2P or 4P /W  4N/W         4N/W                                           a bucket (always there), its copy
=========== ============ ============ ==================== ========================= ========================

P parameters, N trained ones, W ranks; AdamW's moments are 8N, partitioned from stage 1 on. A bucket and what stage 3
gathers follow from the generated DeepSpeed config. Activations and the LM head come from :mod:`launch.planner.trace`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from launch.planner.devices import device_memory
from launch.planner.job import Job

CONTEXT = 3 * 2**29
"""Assumed bytes of a CUDA context, its libraries and NCCL's buffers; on the CPU, of the interpreter with torch."""

FRAGMENTATION = 0.05
"""Assumed share of the allocator's memory that no tensor uses, on a GPU."""

HOST_OF_RANK = 4 * 2**30
"""Assumed host memory of a process on a GPU node: interpreter, libraries, batches."""

Parts = dict[str, int]


@dataclass(frozen=True)
class Memory:
    """What one rank needs.

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


def plan_memory(job: Job) -> Memory:
    """Estimates the memory of a rank and of its node."""
    device, host = model_states(job)
    machines, on_cpu = job.machines, job.machines.gpu.is_cpu
    moments = {}
    for name, extra in _moments(job).items():
        parts = {part: size for part, size in (device | extra).items() if size}
        if not on_cpu:
            parts["fragmentation"] = int(FRAGMENTATION * sum(parts.values()))
        parts["context"] = CONTEXT
        moments[name] = parts
    ranks = machines.ranks_of_node
    if job.config.checkpoint.asynchronous:
        host["checkpoint being written"] = 12 * job.counts.trained // machines.gpus
    if not on_cpu:
        host["processes"] = HOST_OF_RANK
    return Memory(
        moments,
        {part: size * ranks for part, size in host.items() if size},
        device_memory(machines.gpu, ranks),
        machines.host_memory if not on_cpu else device_memory(machines.gpu, 1),
    )


def model_states(job: Job) -> tuple[Parts, Parts]:
    """Bytes of one rank that are there at every moment, on its device and in host memory, by part."""
    config, counts, world = job.config, job.counts, job.machines.gpus
    stage, size = config.deepspeed.zero_stage, job.dtype.itemsize
    low, offload = size < 4, config.deepspeed.offload_optimizer
    trained = counts.trained
    share = -(-trained // world) if stage >= 1 else trained
    masters = stage > 0 or low  # DeepSpeed copies float32 weights as well
    moments = 8 * share
    if config.optimizer.name == "muon":
        moments -= 4 * job.sizes.hidden // (world if stage >= 1 else 1)
    always = {0: 0, 1: 4 * trained * low, 2: 4 * share * (not low), 3: 4 * share}[stage]
    device = {
        "weights": size * (-(-counts.total // world) if stage == 3 else counts.total),
        "gradients": always,
        "master weights": 4 * share * masters,
        "optimizer moments": moments,
    }
    host: Parts = {}
    if offload:
        host = {name: device.pop(name) for name in ("master weights", "optimizer moments")}
        host["gradients"] = 2 * 4 * share  # accumulated, and those that the optimizer reads
        if stage > 1:
            device["gradients"] = 0
    if config.deepspeed.offload_parameters:
        host["weights"] = device.pop("weights")
    if stage == 3:
        device["small weights, whole"] = size * job.sizes.small
        bucket = job.zero.reduce_bucket_size
        # It is there from the start; on the CPU only what is written to becomes memory.
        device["reduce bucket"] = size * (min(bucket, trained) if job.machines.gpu.is_cpu else bucket)
    return device, host


def _moments(job: Job) -> dict[str, Parts]:
    """What each moment adds to the states."""
    config, counts, found = job.config, job.counts, job.trace
    stage, size, world = config.deepspeed.zero_stage, job.dtype.itemsize, job.machines.gpus
    bucket = min(counts.trained, job.zero.reduce_bucket_size) * size
    gathered = _gathered(job)
    reducing: Parts = {}
    if stage >= 2 or (stage == 1 and size == 4):
        reducing["reduction"] = bucket * (2 if stage < 3 else 1)
    averaging = reducing or {"reduction": bucket}  # the others reduce after the last backward pass of a step
    own = {0: size * counts.trained, 1: size * counts.trained, 2: 4 * -(-counts.trained // world), 3: 0}[stage]
    if stage == 2 and config.deepspeed.offload_optimizer:
        own = 0
    # Of the first pass of a step there are only the head's when the blocks' backward passes begin.
    begun = own if stage == 2 or job.accumulation > 1 else min(own, size * counts.head)
    before = own if job.accumulation > 1 else 0
    stepped = -(-counts.trained // world) if stage else counts.trained
    if stage == 3:
        stepped = min(stepped, job.zero.sub_group_size)
    # AdamW makes one tensor of the size of what it steps at once, on the CPU two; some stages copy the gradient before.
    copied = 4 * stepped * (stage == 3 or (stage == 2 and size == 4) or (stage == 0 and size < 4))
    if job.machines.gpu.is_cpu:
        stepped = 2 * (stepped if stage else job.sizes.largest_parameter)
    step = 0 if config.deepspeed.offload_optimizer else copied + 4 * stepped
    saving = 4 * job.sizes.largest_parameter if stage else 0
    passed = {"gradients of the pass": own}
    return {
        "LM head": {
            **gathered,
            "gradients of the pass": before,
            "activations": found.kept,
            "LM head": found.head,
            **reducing,
        },
        "blocks": {
            **gathered,
            "gradients of the pass": begun,
            "activations": found.kept + found.block,
            **reducing,
        },
        "embedding": {**gathered, **passed, "activations": found.embedding, **averaging},
        "optimizer step": {**passed, "optimizer step": step},
        "checkpoint": {"checkpoint": saving},
    }


def _gathered(job: Job) -> Parts:
    """Whole weights that ZeRO-3 holds while it computes, at most.

    A weight stays where it is used again within ``max_reuse_distance`` parameters: around the end of the forward pass
    those of the last half of it, which come back in the backward pass. Besides, there are the module that computes and
    those that are fetched ahead, once as they arrive in one buffer and once in their shape.
    """
    if job.config.deepspeed.zero_stage < 3:
        return {}
    zero, total = job.zero, job.counts.total - job.sizes.small
    ahead = zero.prefetch_bucket_size
    kept = min(total, zero.max_reuse_distance // 2 + ahead + job.sizes.largest_module)
    arriving = min(total, max(ahead, job.sizes.largest_module))
    return {"gathered weights": (kept + arriving) * job.dtype.itemsize}
