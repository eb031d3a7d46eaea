"""What a step of a DeepSpeed engine has accumulated so far: thrown away, or looked at before it is used.

DeepSpeed's private names (0.19.8, read in its source) are used in ``state.py`` and in this file, nowhere else.
Where the gradients of a step lie until the optimizer takes them:

====================== ============================================================================================
``engine.optimizer``   gradients between the first backward of a step and its end
====================== ============================================================================================
torch's, Unfused       ``param.grad``, averaged over the ranks in the last backward
BF16_Optimizer         a flat fp32 buffer over all parameters, averaged in the last backward
ZeRO 1, 2              ``param.grad`` or ``grad_accum`` (1) and pieces of this rank's partition (2), under offload in
                       host memory; ``micro_step_id`` says whether the next backward overwrites or adds
ZeRO 3                 one flat buffer of this rank's pieces; ``micro_step_id`` as above
====================== ============================================================================================
"""

import math
from typing import Any

import torch
import torch.distributed as dist


def discard_gradients(engine: Any) -> None:
    """Throw away what has been accumulated of a step, so that the next step is what it would be without that one.

    Bit for bit, whatever the gradients were. Every rank must call it at the same point: after a forward, after a
    backward, or after a step that DeepSpeed refused because its gradient norm is not finite. Nothing is communicated.
    The abandoned forward's loss must not be used any more.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0 to 3, not in the middle of a forward or backward.
    """
    wrapper = engine.optimizer
    kind = type(wrapper).__name__
    engine.zero_grad()
    if kind == "DeepSpeedZeroOptimizer_Stage3":
        wrapper.zero_grad()  # micro_step_id, too
        wrapper.grad_partitions_flat_buffer.zero_()  # a parameter without gradient in the next step keeps what is here
        wrapper.averaged_gradients = {}
        wrapper._offload_boundary_param_ids = set()
        if wrapper.offload_optimizer:
            wrapper.reset_cpu_buffers()
        for bucket in wrapper.ipg_buckets.values():
            bucket.clear_params()
        # A forward without its backward leaves parameters gathered; the next step would find them so.
        wrapper.checkpoint_event_prologue()
        wrapper.checkpoint_event_epilogue()
    elif kind == "DeepSpeedZeroOptimizer":
        wrapper.zero_grad()
        for gradients in (wrapper.averaged_gradients, wrapper.all_grad_tensors):
            gradients.update(dict.fromkeys(gradients))
        if wrapper.cpu_offload:
            wrapper.reset_cpu_buffers()
            wrapper._offload_accumulated_param_ids = set()
        for bucket in wrapper.ipg_buckets.values():
            bucket.clear()
        wrapper._release_ipg_buffers()
        wrapper.micro_step_id = -1  # INITIAL_MICRO_STEP_ID; the first backward counts it up to 0
    elif kind == "BF16_Optimizer":
        wrapper.zero_grad()
    engine.micro_steps -= engine.micro_steps % engine.gradient_accumulation_steps()


def refused_after_muon(engine: Any) -> bool:
    """Whether the end of this step would be refused when Muon's momentum has moved already; call it right before.

    DeepSpeed takes no step whose gradient norm is not finite. With Muon under ZeRO 3 or offload it knows the norm only
    after the momenta took up the gradient (0.19.8, ``_apply_muon_to_accumulated_grads``,
    ``_apply_muon_updates_cpu_offload``); ``muon_update`` spares the matrices whose own gradient is not finite, no
    others. For all other settings the answer is False at no cost. Collective.
    """
    wrapper = engine.optimizer
    if not any(group.get("use_muon") for group in wrapper.param_groups):
        return False
    kind = type(wrapper).__name__
    if kind == "DeepSpeedZeroOptimizer" and wrapper.cpu_offload:
        gradients = [master.grad for master in wrapper.single_partition_of_fp32_groups]
    elif kind == "DeepSpeedZeroOptimizer_Stage3":
        masters = wrapper.fp32_partitioned_groups_flat
        offload = wrapper.offload_optimizer
        gradients = [master.grad for master in masters] if offload else [wrapper.grad_partitions_flat_buffer]
    else:
        return False
    squares = [torch.linalg.vector_norm(gradient.float()).square().to(engine.device) for gradient in gradients]
    total = torch.stack(squares).sum().reshape(1)
    dist.all_reduce(total)
    return not math.isfinite(total.item())
