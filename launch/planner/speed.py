"""Time of a step and of the run: a roofline of what the traced micro-batch computes, moves and sends."""

import math
from dataclasses import dataclass
from statistics import fmean

import torch

from launch.planner.job import Job
from pretrain.model.build import training_flops
from pretrain.model.sizes import head_widths

MATRIX_EFFICIENCY = 0.77
"""Share of the peak that matrix products reach (benchmarks/gpu.py on an H100, the 1 B shape)."""
ATTENTION_EFFICIENCY = 0.35
"""Assumed share of the peak that attention kernels reach on the pairs that are visible."""
FLEX_OVERHEAD = 1350
"""Tokens that a token sees besides, in FlexAttention's time: blocks that are visible in part (measured as above)."""
COMPILED_MOVED = 0.35
"""Share of the bytes that other operators move where blocks are compiled (measured as above)."""
MEMORY_EFFICIENCY = 0.8
"""Assumed share of the memory bandwidth that other operators reach."""
LINK_EFFICIENCY = 0.8
"""Assumed share of the line rate that collectives reach, within and between nodes."""
HIDDEN = 0.9
"""Assumed largest share of ZeRO-3's communication that runs under computation."""
OPERATOR_SECONDS = 8e-6
"""Assumed time in which Python starts an operator."""
HOP_SECONDS = 5e-6
"""Assumed latency of a collective for each node that it passes."""
OPTIMIZER_BYTES = 100
"""Assumed bytes that torch's AdamW reads and writes for a parameter, the gradient's norm and copy included."""
FUSED_OPTIMIZER_BYTES = 46
"""The same of the fused AdamW, which training uses on GPUs."""
HOST_BANDWIDTH = 200
"""Assumed bandwidth of a node's host memory for an offloaded optimizer, in GB/s."""


@dataclass(frozen=True)
class Speed:
    """Seconds of one optimizer step by component, and what follows from them.

    Attributes:
        seconds: By cause; they add up to a step.
        communication: Seconds that the network is busy, hidden or not.
        flops: Of the model in a step, without recomputation; None where they cannot be counted.
        mfu: Share of the peak that they are.
        tokens_per_second: Over all ranks, padding left out.
        steps: Of the run; None if nothing says how many.
        days: Of the run, with stalls of checkpoints, without evaluations.
        cost: Of the run, in the currency of the price.
        save_seconds: Until a checkpoint is written.
        save_stall: Seconds of them that training waits.
        save_share: Share of the run's time that training waits for checkpoints.
    """

    seconds: dict[str, float]
    communication: float
    flops: int | None
    mfu: float | None
    tokens_per_second: float
    steps: int | None
    days: float | None
    cost: float | None
    save_seconds: float
    save_stall: float
    save_share: float

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())

    @property
    def limit(self) -> str:
        """What takes most of a step."""
        return max(self.seconds, key=lambda cause: self.seconds[cause])


def plan_speed(job: Job, *, price: float | None = None, tokens: float | None = None) -> Speed:
    """Estimates the time of a step and of the run.

    Args:
        job: What is planned.
        price: Of one GPU for an hour.
        tokens: To train on; None: what the config says.
    """
    config, machines = job.config, job.machines
    seconds = _computation(job)
    compute = sum(seconds.values())
    communication = _communication(job)
    if config.deepspeed.zero_stage == 3:
        exposed = max((1 - HIDDEN) * communication, communication - compute)
    else:
        exposed = communication  # DeepSpeed overlaps nothing below stage 3, as it is configured
    seconds |= {"network": exposed, **_update(job)}
    seconds = {cause: value for cause, value in seconds.items() if value}
    step = sum(seconds.values())
    flops = training_flops(
        job.hf_config,
        job.counts,
        tokens=job.tokens_per_step,
        labels=job.labels_per_step,
        visible=int(job.tokens_per_step * job.visible_per_token),
        frozen=bool(config.model.lora.rank),
    )
    steps = _steps(job, tokens)
    save_seconds, stall = _saving(job, step)
    share = stall / (config.checkpoint.every * step + stall)
    days = None if steps is None else (steps * step + math.ceil(steps / config.checkpoint.every) * stall) / 86400
    return Speed(
        seconds=seconds,
        communication=communication,
        flops=flops,
        mfu=None if flops is None else flops / (step * machines.gpus * _peak(job)),
        tokens_per_second=job.tokens_per_step / step,
        steps=steps,
        days=days,
        cost=None if price is None or days is None else price * machines.gpus * 24 * days,
        save_seconds=save_seconds,
        save_stall=stall,
        save_share=share,
    )


def _peak(job: Job) -> float:
    gpu = job.machines.gpu
    return (gpu.bfloat16_tflops if job.dtype == torch.bfloat16 else gpu.float32_tflops) * 1e12


def _computation(job: Job) -> dict[str, float]:
    """Seconds of a step's forward and backward passes on a rank that never waits."""
    gpu, trace, config = job.machines.gpu, job.trace, job.hf_config
    positions = job.request.rows * job.config.packing.row_length
    # Flex leaves out blocks that nobody sees; sdpa computes all pairs; eager's are among the matrix products.
    flex = job.visible_per_token + FLEX_OVERHEAD
    seen = {"flex": flex, "sdpa": job.config.packing.row_length, "eager": 0}[job.request.attention]
    width = config.num_attention_heads * fmean(head_widths(config))
    every = job.request.checkpointing
    recomputed = 1 + 1 / (3 * every) if every else 1
    pairs = 12 * config.num_hidden_layers * width * positions * seen * recomputed
    fused = COMPILED_MOVED if job.compiled else 1.0
    once = {
        "matrix products": trace.products / (_peak(job) * MATRIX_EFFICIENCY),
        "attention": pairs / (_peak(job) * ATTENTION_EFFICIENCY),
        "memory bandwidth": fused * trace.moved / (gpu.bandwidth * 1e9 * MEMORY_EFFICIENCY),
    }
    starting = fused * trace.operators * OPERATOR_SECONDS
    once["starting operators"] = max(0.0, starting - sum(once.values()))
    return {cause: value * job.accumulation for cause, value in once.items()}


def bandwidth(job: Job) -> float:
    """Bytes a second that a collective brings to every rank: the slower of the links in a node and between nodes."""
    machines = job.machines
    rate = machines.gpu.link
    if machines.nodes > 1:
        # Every node receives what its ranks gather once, over all its adapters.
        rate = min(rate, machines.network.of_node(machines.ranks_of_node))
    return rate * 1e9 * LINK_EFFICIENCY


def _communication(job: Job) -> float:
    """Seconds of a step's collectives."""
    machines, counts, zero = job.machines, job.counts, job.zero
    world, stage, size = machines.gpus, job.config.deepspeed.zero_stage, job.dtype.itemsize
    if world == 1:
        return 0.0
    partitioned = counts.total - job.small
    per_micro, per_step, messages = 0, 0, 0.0
    if stage == 3:
        per_micro = 2 * partitioned * size + counts.trained * size
        messages = 2 * partitioned / max(zero.prefetch_bucket_size, 1) + counts.trained / zero.reduce_bucket_size
    elif stage == 2:
        per_micro, per_step = counts.trained * size, counts.trained * size
        messages = counts.trained / zero.reduce_bucket_size
    else:
        per_step = (2 + (stage == 1)) * counts.trained * size  # all-reduce is a reduce-scatter and a gather
    volume = job.accumulation * per_micro + per_step
    latency = job.accumulation * math.ceil(messages) * machines.nodes * HOP_SECONDS
    return volume * (world - 1) / world / bandwidth(job) + latency


def _update(job: Job) -> dict[str, float]:
    """Seconds of the optimizer, and of what offloading moves."""
    machines, config, gpu = job.machines, job.config, job.machines.gpu
    share = job.counts.trained / (machines.gpus if config.deepspeed.zero_stage else 1)
    pcie, size = gpu.host_link * 1e9, job.dtype.itemsize
    moved = 0.0
    if config.deepspeed.offload_parameters:
        moved += job.accumulation * 2 * size * job.counts.total / machines.gpus
    if not config.deepspeed.offload_optimizer:
        size_moved = OPTIMIZER_BYTES if job.on_cpu else FUSED_OPTIMIZER_BYTES
        optimizer = size_moved * share / (gpu.bandwidth * 1e9 * MEMORY_EFFICIENCY)
        return {"optimizer": optimizer, "offloading": moved / pcie}
    moved += (job.accumulation * 4 + size) * share
    optimizer = OPTIMIZER_BYTES * share * machines.ranks_of_node / (HOST_BANDWIDTH * 1e9)
    return {"optimizer": optimizer, "offloading": moved / pcie}


def _steps(job: Job, tokens: float | None) -> int | None:
    train, rows = job.config.train, job.data.rows_per_epoch
    if tokens is not None:
        return math.ceil(tokens / job.tokens_per_step)
    if train.steps is not None:
        return train.steps
    return None if rows is None else max(1, math.ceil(rows * (train.epochs or 1.0) / train.rows_per_step))


def _saving(job: Job, step: float) -> tuple[float, float]:
    """Seconds until a checkpoint is written, and those of them that training waits."""
    machines, config = job.machines, job.config
    state = 12 * job.counts.trained
    gathering = state / machines.gpus / (machines.gpu.host_link * 1e9)
    if machines.gpus > 1 and config.deepspeed.zero_stage:
        gathering += state / bandwidth(job)
    writing = state / (machines.disk * 1e9)
    if not config.checkpoint.asynchronous:
        return gathering + writing, gathering + writing
    # One write at a time: the next save waits for the one before.
    return gathering + writing, gathering + max(0.0, writing - config.checkpoint.every * step)
