"""Bytes of one rank by part, at each moment of a step, according to the source of DeepSpeed 0.19.8.

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
gathers follow from the generated DeepSpeed config, activations and the LM head from :mod:`pretrain.footprint.trace`.
"""

from pretrain.footprint.load import Load

Parts = dict[str, int]

COMPILED_KEPT = 0.7
"""Share of a block's activations that a compiled block keeps: the others are computed anew within its fused kernels
(benchmarks/gpu.py on an H100, the 1 B shape)."""


def model_states(load: Load) -> tuple[Parts, Parts]:
    """Bytes of one rank that are allocated at every moment, on its device and in host memory, by part."""
    config, counts, world = load.config, load.counts, load.world_size
    stage, size = config.deepspeed.zero_stage, load.dtype.itemsize
    low, offload = size < 4, config.deepspeed.offload_optimizer
    trained = counts.trained
    share = -(-trained // world) if stage >= 1 else trained
    masters = stage > 0 or low  # DeepSpeed copies float32 weights as well
    moments = 8 * share
    if config.optimizer.name == "muon":
        moments -= 4 * load.sizes.hidden // (world if stage >= 1 else 1)
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
        device["small weights, whole"] = size * load.small
        bucket = load.zero.reduce_bucket_size
        # It is allocated from the start; on the CPU only the pages written to take memory.
        device["reduce bucket"] = size * (min(bucket, trained) if load.on_cpu else bucket)
    return device, host


def moments(load: Load) -> dict[str, Parts]:
    """What each moment of a step adds to the states, in bytes by part.

    Raises:
        DiptychError: The model cannot run on the meta device.
    """
    config, counts, trace = load.config, load.counts, load.trace
    stage, size, world = config.deepspeed.zero_stage, load.dtype.itemsize, load.world_size
    bucket = min(counts.trained, load.zero.reduce_bucket_size) * size
    gathered = _gathered(load)
    # Recomputed blocks keep their input alone, however they are compiled; what they recompute is less.
    kept = trace.kept * (COMPILED_KEPT if load.compiled and load.request.checkpointing != 1 else 1)
    block = trace.block * (COMPILED_KEPT if load.compiled else 1)
    reducing: Parts = {}
    if stage >= 2 or (stage == 1 and size == 4):
        reducing["reduction"] = bucket * (2 if stage < 3 else 1)
    averaging = reducing or {"reduction": bucket}  # the others reduce after the last backward pass of a step
    gradients = {0: size * counts.trained, 1: size * counts.trained, 2: 4 * -(-counts.trained // world), 3: 0}[stage]
    if stage == 2 and config.deepspeed.offload_optimizer:
        gradients = 0
    # In the first pass of a step only the head's gradients exist when the blocks' backward passes begin.
    begun = gradients if stage == 2 or load.accumulation > 1 else min(gradients, size * counts.head)
    before = gradients if load.accumulation > 1 else 0
    stepped = -(-counts.trained // world) if stage else counts.trained
    if stage == 3:
        stepped = min(stepped, load.zero.sub_group_size)
    # AdamW allocates one tensor of the size that it steps at once, on the CPU two; some stages copy the gradient first.
    copied = 4 * stepped * (stage == 3 or (stage == 2 and size == 4) or (stage == 0 and size < 4))
    if load.on_cpu:
        stepped = 2 * (stepped if stage else load.sizes.largest_parameter)
    step = 0 if config.deepspeed.offload_optimizer else copied + 4 * stepped
    saving = 4 * load.sizes.largest_parameter if stage else 0
    passed = {"gradients of the pass": gradients}
    return {
        "LM head": {
            **gathered,
            "gradients of the pass": before,
            "activations": int(kept),
            "LM head": trace.head,
            **reducing,
        },
        "blocks": {
            **gathered,
            "gradients of the pass": begun,
            "activations": int(kept + block),
            **reducing,
        },
        "embedding": {**gathered, **passed, "activations": trace.embedding, **averaging},
        "optimizer step": {**passed, "optimizer step": step},
        "checkpoint": {"checkpoint": saving},
    }


def _gathered(load: Load) -> Parts:
    """Whole weights that ZeRO-3 holds while it computes, at most.

    A weight stays gathered if it is used again within ``max_reuse_distance`` parameters: at the end of the forward pass
    those in the last half of that distance, which the backward pass uses again. In addition there are the module that
    computes and the modules fetched ahead, once in the buffer that they arrive in and once in their shape.
    """
    if load.config.deepspeed.zero_stage < 3:
        return {}
    zero, total = load.zero, load.counts.total - load.small
    ahead = zero.prefetch_bucket_size
    kept = min(total, zero.max_reuse_distance // 2 + ahead + load.sizes.largest_unit)
    arriving = min(total, max(ahead, load.sizes.largest_unit))
    return {"gathered weights": (kept + arriving) * load.dtype.itemsize}
