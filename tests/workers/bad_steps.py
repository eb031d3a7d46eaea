"""What the ranks of test_bad_steps.py run: `workers/bad_steps.py CASE...`, each case a setting of DeepSpeed.

`zero3-bf16-acc2` is the setting `zero3-bf16` of workers/engine_state.py with two micro-batches a step.
"""

import logging
import math
import os
import sys
import warnings
from typing import Any

from tests.workers.engine_state import GLOBAL_BATCH, VOCABULARY, Model, assert_same_bits, engine_of, settings

import deepspeed  # isort: skip
import deepspeed.ops
import torch
import torch.distributed as dist

from pretrain.engine.build import step_engine
from pretrain.engine.gradients import discard_gradients
from pretrain.engine.rank_drift import compare_ranks
from pretrain.engine.state import gather_state, optimizer_step, restore_state, start_state
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

LEFT_OUT = (0, 3)  # the first step, and one in the middle
STEPS = 6


class Breakable(Model):
    """A model whose loss may be finite while gradients are not: of all parameters, or of `scale` alone."""

    broken = ""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        loss = super().forward(tokens)
        if self.broken:
            loss = loss + ((loss if self.broken == "all" else self.scale.sum()) * 0).sqrt()  # 0, and its slope inf * 0
        assert loss.isfinite()
        return loss


def build(case: str) -> Any:
    name, accumulation = case.rsplit("-acc", 1)
    config, optimizer_name = settings(name)
    config["gradient_accumulation_steps"] = int(accumulation)
    torch.manual_seed(1)
    engine = engine_of(Breakable(), config, optimizer_name)
    start_state(engine)
    return engine


def rows_of(step: int, micro: int, accumulation: int) -> torch.Tensor:
    rows = torch.randint(VOCABULARY, (GLOBAL_BATCH, 9), generator=torch.Generator().manual_seed(step))
    return rows[dist.get_rank() * accumulation + micro :: dist.get_world_size() * accumulation]


def micro_batch(engine: Any, step: int, micro: int, *, broken: str = "", backward: bool = True) -> torch.Tensor:
    """Forward and backward; a broken one is so on the last rank alone."""
    engine.module.broken = broken if dist.get_rank() == dist.get_world_size() - 1 else ""
    loss = engine(rows_of(step, micro, engine.gradient_accumulation_steps()))
    if backward:
        engine.backward(loss * dist.get_world_size(), scale_wrt_gas=False)
    return loss.detach()


def whole_step(engine: Any, step: int, *, broken: str = "") -> tuple[float, float]:
    """Loss and gradient norm."""
    for group in engine.optimizer.param_groups:
        group["lr"] = 1e-2 / (step + 1)
    total, norm = torch.zeros(()), None
    for micro in range(engine.gradient_accumulation_steps()):
        total += micro_batch(engine, step, micro, broken=broken if micro == 0 else "")
        norm = step_engine(engine)
    assert norm is not None
    dist.all_reduce(total)
    return total.item(), norm


def found_in_first_loss(engine: Any, step: int, broken: str) -> None:
    micro_batch(engine, step, 0, backward=False)


def found_in_last_loss(engine: Any, step: int, broken: str) -> None:
    last = engine.gradient_accumulation_steps() - 1
    for micro in range(last):
        micro_batch(engine, step, micro, broken=broken)
        assert step_engine(engine) is None
    micro_batch(engine, step, last, backward=False)


def found_before_update(engine: Any, step: int, broken: str) -> None:
    last = engine.gradient_accumulation_steps() - 1
    for micro in range(last):
        micro_batch(engine, step, micro, broken=broken)
        step_engine(engine)
    micro_batch(engine, step, last, broken=broken)


def found_in_gradient_norm(engine: Any, step: int, broken: str) -> None:
    _, norm = whole_step(engine, step, broken=broken)
    assert not math.isfinite(norm), norm


ABANDONED = [
    (found_in_first_loss, ""),
    (found_in_last_loss, ""),
    (found_in_last_loss, "all"),
    (found_before_update, ""),
    (found_before_update, "all"),
    (found_in_gradient_norm, "all"),
    (found_in_gradient_norm, "scale"),
]
"""Every way to find out that a step is bad, and which gradients are accumulated and broken until then."""


def whole_state(engine: Any) -> dict[str, dict[str, torch.Tensor]]:
    own = {name: state for name, state in gather_state(engine) if state}
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, own)
    return {name: state for part in parts for name, state in part.items()}


def check_discarding(case: str) -> None:
    """A run that never knew some steps, against one that abandoned each in every way there is."""
    plain = build(case)
    begin = whole_state(plain)
    curve, states = {}, {}
    for step in range(STEPS):
        if step not in LEFT_OUT:
            curve[step] = whole_step(plain, step)
            states[step] = whole_state(plain)
    assert optimizer_step(plain) == STEPS - len(LEFT_OUT)

    engine = build(case)
    for step in range(STEPS):
        if step in LEFT_OUT:
            before = states.get(step - 1, begin)
            for abandon, broken in ABANDONED:
                abandon(engine, step, broken)
                discard_gradients(engine)
                try:
                    assert_same_bits(whole_state(engine), before)
                except AssertionError as error:
                    raise AssertionError(f"step {step}, {abandon.__name__}, broken {broken}: left a trace") from error
        else:
            assert whole_step(engine, step) == curve[step], step
            try:
                assert_same_bits(whole_state(engine), states[step])
            except AssertionError as error:
                raise AssertionError(f"step {step} is another one after an abandoned step") from error
    assert optimizer_step(engine) == STEPS - len(LEFT_OUT)

    # Each way alone, for the next step must not depend on what another way has cleaned up; and going back in the same
    # engine from the middle of a step.
    for abandon, broken in ABANDONED:
        abandon(engine, 3, broken)
        discard_gradients(engine)
        restore_state(engine, states[2].__getitem__, 2)
        assert_same_bits(whole_state(engine), states[2])
        abandon(engine, 3, broken)
        discard_gradients(engine)
        assert whole_step(engine, 4) == curve[4], (abandon.__name__, broken)
        assert_same_bits(whole_state(engine), states[4])


def check_drift(case: str) -> None:
    """One bit of one tensor on rank 1: what must be seen, and what ZeRO 3 cannot see."""
    engine = build(case)
    engine.module.register_buffer("table", torch.arange(5))
    whole_step(engine, 0)
    rank, world_size = dist.get_rank(), dist.get_world_size()
    ranks = Ranks(rank, world_size, torch.device("cpu"))
    compare_ranks(engine, ranks)
    module = engine.module
    seen = {"mix.bias": module.mix.bias.data, "blocks.1.norm.weight": module.blocks[1].norm.weight.data}
    seen["table"] = module.table
    unseen = {}
    if case.startswith("zero3"):
        unseen = {"mix.weight": module.mix.weight.ds_tensor.data}
    else:
        seen |= {"embedding.weight": module.embedding.weight.data, "scale": module.scale.data}
    for name, tensor in {**seen, **unseen}.items():
        bits = tensor.view(-1).view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])
        bits[-1] ^= 4 * (rank == 1)
        try:
            compare_ranks(engine, ranks)
            found = ""
        except DiptychError as error:
            found = str(error)
        assert found.startswith(f"{name}: rank ") if name in seen else not found, (name, found)
        who = "rank 1 on " if world_size > 2 else "rank 0 on "
        assert not found or found.startswith(f"{name}: {who}"), found
        bits[-1] ^= 4 * (rank == 1)
    compare_ranks(engine, ranks)


def main(*cases: str) -> None:
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # else 0.19.8 compiles it: minutes
    deepspeed.init_distributed(dist_backend="gloo", verbose=False)
    for case in cases:
        try:
            if case.startswith("drift:"):
                check_drift(case.removeprefix("drift:"))
            else:
                check_discarding(case)
        except Exception as error:
            raise AssertionError(f"case {case} failed on rank {dist.get_rank()}") from error
        print(f"ok {case}", flush=True)
    dist.barrier()


if __name__ == "__main__":
    main(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort the interpreter's own exit
