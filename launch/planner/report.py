"""A plan as a text for the terminal, and as plain data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from launch.planner import memory as memory_model
from launch.planner import speed as speed_model
from launch.planner.job import Job
from launch.planner.memory import MemoryUse
from launch.planner.remedies import Remedy
from launch.planner.speed import Speed

HINTS: Mapping[str, str] = {
    "matrix products": "computation limits speed, as it should: only more or faster GPUs help",
    "attention": "attention limits speed: shorter rows or views, or flex attention",
    "memory bandwidth": "norms, activations and copies limit speed: what memory allows, do without "
    "model.activation_checkpointing",
    "starting operators": "Python limits speed, the GPU waits for it: raise train.micro_batch_rows",
    "network": "the network limits speed: raise train.micro_batch_rows (fewer gathers) or train.rows_per_step (more "
    "computation for each GPU), or take a lower deepspeed.zero_stage or fewer GPUs",
    "optimizer": "the optimizer's step limits speed: raise train.rows_per_step, or do not offload",
    "offloading": "copies from and to host memory limit speed: do not offload, take more GPUs",
}


@dataclass(frozen=True)
class Plan:
    """A plan: memory, speed, cost and, if it does not fit, a remedy.

    Attributes:
        job: What was planned.
        memory: Of one rank.
        speed: Of a step and of the run.
        remedy: What makes it fit, if it does not.
    """

    job: Job
    memory: MemoryUse
    speed: Speed
    remedy: Remedy | None = None

    def warnings(self) -> list[str]:
        """What is likely not meant."""
        job, config, found = self.job, self.job.config, []
        if job.empty_share:
            found.append(
                f"{job.empty_share:.0%} of computed rows are empty: train.rows_per_step {config.train.rows_per_step} "
                f"is no multiple of {job.machines.gpus} ranks x {job.request.rows} rows"
            )
        if self.speed.save_seconds > config.checkpoint.notice_seconds:
            found.append(
                f"a checkpoint takes {self.speed.save_seconds:,.0f} s, longer than the notice of "
                f"{config.checkpoint.notice_seconds:g} s (checkpoint.notice_seconds): have the scheduler signal earlier"
            )
        return found


def assumptions(plan: Plan) -> list[str]:
    """What the figures rest on."""
    job, gpu, network = plan.job, plan.job.machines.gpu, plan.job.machines.network
    return [
        f"{gpu.name}: {plan.job.machines.gpu.sheet}; {_peak(job):g} TFLOP/s, {gpu.bandwidth:,.0f} GB/s memory, "
        f"{gpu.link:g} GB/s links, {gpu.host_link:g} GB/s to the host",
        f"{network.name}: {network.source}, {network.gigabits:g} Gbit/s",
        f"matrix products reach {speed_model.MATRIX_EFFICIENCY:.0%} of the peak, attention "
        f"{speed_model.ATTENTION_EFFICIENCY:.0%}, other operators {speed_model.MEMORY_EFFICIENCY:.0%} of the memory "
        f"bandwidth, collectives {speed_model.LINK_EFFICIENCY:.0%} of the line rate",
        f"ZeRO-3 hides at most {speed_model.HIDDEN:.0%} of its communication under computation; lower stages none",
        f"Python starts an operator in {speed_model.OPERATOR_SECONDS * 1e6:g} µs; a collective takes "
        f"{speed_model.HOP_SECONDS * 1e6:g} µs for each node",
        f"{memory_model.CONTEXT / 2**30:g} GiB of CUDA context and NCCL buffers, "
        f"{memory_model.FRAGMENTATION:.0%} fragmentation; {memory_model.HOST_OF_RANK / 2**30:g} GiB of host memory for "
        "each process",
        f"rows: {job.data.source}",
        f"file system {job.machines.disk:g} GB/s in all; evaluations take no time",
    ]


def as_text(plan: Plan) -> str:
    """The plan for a terminal."""
    job, config, speed = plan.job, plan.job.config, plan.speed
    machines, counts, memory = job.machines, job.counts, plan.memory
    trained = f", {_count(counts.trained)} trained" if counts.trained != counts.total else ""
    lines = [
        f"model        {job.hf_config.model_type}, {_count(counts.total)} parameters{trained}, vocabulary "
        f"{job.hf_config.vocab_size:,}",
        f"machines     {machines.gpus:,} x {machines.gpu.name}, {machines.nodes} node(s) of "
        f"{machines.gpus_per_node}, {machines.network.name}",
        f"training     ZeRO-{config.deepspeed.zero_stage}, {str(job.dtype).removeprefix('torch.')}, "
        f"{job.request.attention} attention, {'recomputed blocks, ' if config.model.activation_checkpointing else ''}"
        f"{job.request.rows} row(s) of {config.packing.row_length:,} x {job.accumulation} accumulated x "
        f"{machines.gpus:,} ranks for {config.train.rows_per_step:,} rows a step",
        "",
        *_memory_lines(memory),
    ]
    if not memory.fits:
        if plan.remedy is None:
            lines.append("no change of settings or number of GPUs that was tried makes it fit")
        else:
            peak = plan.remedy.memory.device / 2**30
            lines.append(f"it fits with  {plan.remedy.text}  ({peak:.1f} GiB, planned again)")
    shares = ", ".join(
        f"{cause} {value / speed.step:.0%}" for cause, value in sorted(speed.seconds.items(), key=lambda item: -item[1])
    )
    mfu = "" if speed.mfu is None else f", MFU {speed.mfu:.1%}"
    lines += [
        "",
        f"step         {speed.step:.3g} s: {shares}",
        f"speed        {speed.tokens_per_second:,.0f} tokens/s, "
        f"{speed.tokens_per_second / machines.gpus:,.0f} for each GPU{mfu}",
        f"limit        {HINTS[speed.limit]}",
    ]
    if speed.days is None:
        lines.append("run          length unknown: give --tokens, train.steps or --corpus")
    else:
        hours = speed.days * 24
        cost = "" if speed.cost is None else f", costs {speed.cost:,.0f}"
        length = f"{speed.days:.1f} days" if hours >= 48 else f"{hours:.1f} hours"
        lines.append(
            f"run          {speed.steps:,} steps of {job.tokens_per_step:,} tokens: {length}, "
            f"{hours * machines.gpus:,.0f} GPU hours{cost}"
        )
    lines.append(
        f"checkpoint   {12 * counts.trained / 1e9:,.1f} GB, {speed.save_seconds:.1f} s, of which training waits "
        f"{speed.save_stall:.1f} s every {config.checkpoint.every} steps ({speed.save_share:.2%} of the time)"
    )
    lines += [f"note: {warning}" for warning in plan.warnings()]
    return "\n".join([*lines, "", "assumptions", *(f"  {line}" for line in assumptions(plan))])


def _memory_lines(memory: MemoryUse) -> list[str]:
    moments = list(memory.moments)
    names = list(dict.fromkeys(part for parts in memory.moments.values() for part in parts))
    width = max(len(name) for name in names) + 2
    head = "GiB of a rank".ljust(width) + "".join(f"{moment:>16}" for moment in moments)
    lines = [head]
    for name in names:
        cells = (memory.moments[moment].get(name) for moment in moments)
        lines.append(name.ljust(width) + "".join(f"{'' if size is None else _gib(size):>16}" for size in cells))
    lines.append(
        "sum".ljust(width) + "".join(f"{_gib(sum(memory.moments[moment].values())):>16}" for moment in moments)
    )
    verdict = "fits" if memory.device <= memory.available else "DOES NOT FIT"
    lines.append(f"{verdict}: {_gib(memory.device)} of {_gib(memory.available)} GiB, most at: {memory.peak_moment}")
    host = ", ".join(f"{name} {_gib(size)}" for name, size in memory.host.items())
    verdict = "fits" if memory.host_total <= memory.host_available else "DOES NOT FIT"
    lines.append(
        f"host of a node: {verdict}, {_gib(memory.host_total)} of {_gib(memory.host_available)} GiB"
        + (f" ({host})" if host else "")
    )
    return lines


def as_data(plan: Plan) -> dict[str, Any]:
    """The plan as plain data; sizes in bytes, times in seconds."""
    job, memory, speed = plan.job, plan.memory, plan.speed
    return {
        "model": job.hf_config.model_type,
        "parameters": job.counts._asdict(),
        "gpus": job.machines.gpus,
        "nodes": job.machines.nodes,
        "gpu": job.machines.gpu.name,
        "network": job.machines.network.name,
        "zero_stage": job.config.deepspeed.zero_stage,
        "dtype": str(job.dtype).removeprefix("torch."),
        "attention": job.request.attention,
        "micro_batch_rows": job.request.rows,
        "accumulation": job.accumulation,
        "tokens_per_step": job.tokens_per_step,
        "memory": {
            "fits": memory.fits,
            "device": memory.device,
            "available": memory.available,
            "peak_moment": memory.peak_moment,
            "moments": dict(memory.moments),
            "host": memory.host,
            "host_available": memory.host_available,
        },
        "remedy": None if plan.remedy is None else {"change": plan.remedy.text, "device": plan.remedy.memory.device},
        "speed": {
            "step": speed.step,
            "limit": speed.limit,
            **{name: getattr(speed, name) for name in speed.__dataclass_fields__},
        },
        "warnings": plan.warnings(),
        "assumptions": assumptions(plan),
    }


def _peak(job: Job) -> float:
    return job.machines.gpu.bfloat16_tflops if job.dtype.itemsize == 2 else job.machines.gpu.float32_tflops


def _gib(size: int) -> str:
    return f"{size / 2**30:,.2f}"


def _count(number: int) -> str:
    for unit, name in ((10**9, "B"), (10**6, "M")):
        if number >= unit:
            return f"{number / unit:.2f} {name}"
    return f"{number:,}"
