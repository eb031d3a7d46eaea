"""Training state of a DeepSpeed engine as full tensors, one parameter at a time.

DeepSpeed's own checkpoints are pickles laid out for one ZeRO stage and one world size. Here the state of a run is, for
each parameter, its fp32 master weight and the optimizer's tensors in the parameter's own shape. That is the same set
of numbers for every ZeRO stage, number of ranks and offload setting, so what one run wrote any other can continue.

Where DeepSpeed 0.19.8 keeps the numbers (read in its source; its private names are used in this file and in
``gradients.py``, nowhere else):

====================== ================================== ============================================================
settings               ``engine.optimizer``               masters and optimizer state
====================== ================================== ============================================================
stage 0, fp32          the ``torch`` optimizer itself     the parameters themselves, whole on every rank
stage 0, bf16          ``FP16_UnfusedOptimizer``          one fp32 copy per parameter, whole on every rank
stage 1, 2             ``DeepSpeedZeroOptimizer``         a flat partition per group; a parameter may straddle two ranks
stage 1, bf16 + fp32   ``BF16_Optimizer``                 the same (bf16 weights with fp32 gradient accumulation)
stage 3                ``DeepSpeedZeroOptimizer_Stage3``  every parameter cut into world-size equal pieces (last padded)
====================== ================================== ============================================================

``deepspeed.utils.safe_get_full_fp32_param`` and its kin are not used: they return None for stage 0, fail before the
first step (the state is made lazily), add up floats (which turns -0.0 into 0.0) and need all of it on all ranks.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist

from pretrain.runtime.errors import DiptychError

MASTER_WEIGHT = "weight"
ADAM_TENSORS = ("exp_avg", "exp_avg_sq")
MUON_TENSORS = ("momentum_buffer",)

ParameterState = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class _Held:
    """What this rank holds of one parameter: ``length`` elements of the flattened parameter, from ``start`` on.

    ``master`` is the fp32 tensor that the optimizer steps and under which it keeps its state; the elements lie in it
    from ``offset`` on. ``length`` is 0 where the rank holds nothing. ``momentum_offset`` is set where the rank keeps
    the Muon momentum of the whole parameter instead of those elements.
    """

    shape: torch.Size
    group: dict[str, Any]
    master: torch.Tensor
    start: int
    offset: int
    length: int
    momentum_offset: int | None = None


class _Layout:
    """Where the engine's optimizer keeps every parameter on this rank."""

    def __init__(self, engine: Any) -> None:
        self.wrapper: Any = engine.optimizer
        self.optimizer: Any = getattr(self.wrapper, "optimizer", self.wrapper)
        self.device: torch.device = engine.device
        self.replicated = False
        self._held: dict[int, _Held] = {}
        self._momentum_numel: dict[int, int] = {}
        if type(self.optimizer).__name__ not in ("AdamW", "MuonWithAuxAdam"):
            raise DiptychError(
                f"cannot save or restore the state of the optimizer {type(self.optimizer).__name__}: "
                "torch.optim.AdamW or DeepSpeed's MuonWithAuxAdam is expected"
            )
        kind = type(self.wrapper).__name__
        if kind == "DeepSpeedZeroOptimizer_Stage3":
            self._read_stage3()
        elif kind == "DeepSpeedZeroOptimizer":
            self._read_flat(self.wrapper.bit16_groups, self.wrapper.single_partition_of_fp32_groups)
            self._read_whole_momenta()
        elif kind == "BF16_Optimizer":
            self._read_flat(self.wrapper.bf16_groups, self.wrapper.fp32_groups_flat_partition)
        elif kind == "FP16_UnfusedOptimizer":
            self._read_replicated(self.wrapper.fp16_groups, self.wrapper.fp32_groups)
        elif self.wrapper is self.optimizer:
            groups = [group["params"] for group in self.optimizer.param_groups]
            self._read_replicated(groups, groups)
        else:
            raise DiptychError(f"cannot save or restore the state of DeepSpeed's {kind}: use ZeRO stage 0 to 3")
        for held in self._held.values():
            if held.master.dtype != torch.float32:
                raise DiptychError(
                    f"master weights are {held.master.dtype} but torch.float32 is expected: remove "
                    "bf16_master_weights_and_grads from the DeepSpeed settings"
                )

    def _read_replicated(self, params_of_groups: list[list[torch.Tensor]], masters: list[list[torch.Tensor]]) -> None:
        self.replicated = True
        for group, params, copies in zip(self.optimizer.param_groups, params_of_groups, masters, strict=True):
            for param, master in zip(params, copies, strict=True):
                self._held[id(param)] = _Held(param.shape, group, master, 0, 0, master.numel())

    def _read_flat(self, params_of_groups: list[list[Any]], masters: list[torch.Tensor]) -> None:
        self._require_all_ranks()
        for group, params, master in zip(self.optimizer.param_groups, params_of_groups, masters, strict=True):
            for param in params:
                start = offset = length = 0
                if (mapping := param._hp_mapping) is not None:
                    start, length = mapping.lp_fragment_address.start, mapping.lp_fragment_address.numel
                    offset = mapping.hp_fragment_address.start
                self._held[id(param)] = _Held(param.shape, group, master, start, offset, length)

    def _read_whole_momenta(self) -> None:
        # Without offload, stages 1 and 2 keep no partition of Muon's momentum: each rank keeps it for the WHOLE of
        # every matrix that its partition touches (stage_1_and_2.py, `_muon_momentum_buffer`, DeepSpeed 0.19.8).
        for index, group in enumerate(self.optimizer.param_groups):
            if group.get("use_muon") and not self.wrapper.cpu_offload:
                position = 0
                for param in self.wrapper.params_in_partition[index]:
                    self._held[id(param)] = replace(self._held[id(param)], momentum_offset=position)
                    position += param.numel()
                self._momentum_numel[id(self.wrapper.single_partition_of_fp32_groups[index])] = position

    def _read_stage3(self) -> None:
        zero = self.wrapper
        self._require_all_ranks()
        if zero.swap_optimizer or any(flat is None for flat in zero.fp16_partitioned_groups_flat):
            raise DiptychError("cannot save or restore what is offloaded to NVMe: offload to cpu instead")
        rank = dist.get_rank(zero.dp_process_group)
        for sub_group, params in enumerate(zero.fp16_groups):
            group = self.optimizer.param_groups[zero.sub_group_to_group_id[sub_group]]
            master = zero.fp32_partitioned_groups_flat[sub_group]
            for param in params:
                _, offset, size = zero.grad_position[zero.get_param_id(param)]
                # The last pieces are padded to the common size; the padding is no part of the parameter.
                start = min(rank * size, param.ds_numel)
                length = min(size, param.ds_numel - start)
                self._held[id(param)] = _Held(param.ds_shape, group, master, start, offset, length)

    def _require_all_ranks(self) -> None:
        partitions = dist.get_world_size(self.wrapper.dp_process_group)
        if partitions != dist.get_world_size():
            raise DiptychError(
                f"the optimizer is partitioned over {partitions} of {dist.get_world_size()} ranks: "
                "tensor, pipeline and sequence parallelism are not supported"
            )

    def held(self, name: str, param: torch.Tensor) -> _Held:
        """Return what this rank holds of the named parameter."""
        if id(param) not in self._held:
            raise DiptychError(f"parameter {name} is in none of the optimizer's groups: it would never be trained")
        return self._held[id(param)]

    def keys(self, held: _Held) -> tuple[str, ...]:
        """Name the optimizer's tensors of a parameter; the same on all ranks, whether or not they exist yet."""
        return MUON_TENSORS if held.group.get("use_muon") else ADAM_TENSORS

    def local(self, held: _Held, key: str) -> tuple[int, torch.Tensor, bool]:
        """Find this rank's part of one tensor of a parameter.

        Returns:
            The part's position in the flattened parameter; the part, a writable 1-D view; and whether it counts when
            the ranks' parts are put together, as a part that two ranks hold must count once.
        """
        if key == MASTER_WEIGHT:
            return held.start, held.master.detach().view(-1).narrow(0, held.offset, held.length), True
        flat = self.optimizer.state[held.master][key].view(-1)
        if key in MUON_TENSORS and id(held.master) in self._momentum_numel:
            if held.momentum_offset is None:
                return 0, flat.narrow(0, 0, 0), False
            # The rank that holds the first element speaks for all that hold a copy.
            return 0, flat.narrow(0, held.momentum_offset, held.shape.numel()), held.start == 0
        return held.start, flat.narrow(0, held.offset, held.length), True

    def create_state(self) -> None:
        """Make the optimizer's tensors where the optimizer has not made them yet, as its first step would."""
        for held in self._held.values():
            state = self.optimizer.state[held.master]
            for key in self.keys(held):
                if key not in state:
                    state[key] = torch.zeros_like(held.master, requires_grad=False)
                    if id(held.master) in self._momentum_numel:
                        state[key] = torch.zeros(self._momentum_numel[id(held.master)], device=held.master.device)
            if not held.group.get("use_muon") and "step" not in state:
                state["step"] = self._step_value(held, 0)

    def _step_value(self, held: _Held, step: int) -> torch.Tensor | int:
        if type(self.optimizer).__name__ == "MuonWithAuxAdam" and self.optimizer.aux_optimizer is None:
            return step  # its inline Adam counts with a Python int
        on_device = held.group.get("capturable") or held.group.get("fused")
        return torch.tensor(float(step), device=held.master.device if on_device else "cpu")

    def set_step(self, step: int) -> None:
        """Set the step counters, of which the optimizer keeps one per tensor that it steps."""
        for held in self._held.values():
            if not held.group.get("use_muon"):
                self.optimizer.state[held.master]["step"] = self._step_value(held, step)

    def steps(self) -> set[int]:
        """Collect the step counters."""
        states = (self.optimizer.state[held.master] for held in self._held.values())
        return {int(state["step"]) for state in states if "step" in state}

    def publish_masters(self) -> None:
        """Copy the master weights into the model's weights. Collective under ZeRO."""
        kind = type(self.wrapper).__name__
        if kind == "DeepSpeedZeroOptimizer_Stage3":
            # As after a step: into the partitions; then the parameters that stay gathered are gathered anew.
            self.wrapper.checkpoint_event_prologue()
            for sub_group in range(len(self.wrapper.fp16_groups)):
                self.wrapper._reassign_or_swap_out_partitioned_parameters(sub_group)
            self.wrapper.checkpoint_event_epilogue()
        elif kind == "FP16_UnfusedOptimizer":
            for params, masters in zip(self.wrapper.fp16_groups, self.wrapper.fp32_groups, strict=True):
                for param, master in zip(params, masters, strict=True):
                    param.data.copy_(master.data)
        elif not self.replicated:
            self.wrapper.update_lp_params()


def _trained(engine: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """The parameters that are not frozen, in ``named_parameters()`` order."""
    return ((name, param) for name, param in engine.module.named_parameters() if param.requires_grad)


def is_replicated(parameter: torch.Tensor) -> bool:
    """Whether every rank holds the whole parameter between two steps; the same answer on all ranks."""
    if not hasattr(parameter, "ds_id"):
        return True
    return bool(parameter.ds_persist) and parameter.ds_status.name == "AVAILABLE"  # type: ignore[attr-defined]


def start_state(engine: Any) -> None:
    """Bring a new engine to step 0 with optimizer state of zeros; call it once before the first step of a new run.

    Every rank must call it; nothing is communicated. For most settings it only does what the first step would. Under
    stage 0 with bf16 it also takes back a step: DeepSpeed 0.19.8 steps the optimizer once with zero gradients when it
    starts (``FP16_UnfusedOptimizer.initialize_optimizer_states``), which decays the masters by lr * weight decay and
    leaves AdamW's bias correction one step ahead for the whole run.

    Args:
        engine: What ``deepspeed.initialize`` returned, before any step.
    """
    layout = _Layout(engine)
    layout.create_state()
    if type(layout.wrapper).__name__ == "FP16_UnfusedOptimizer":
        layout.wrapper.refresh_fp32_params()
        layout.set_step(0)


def optimizer_step(engine: Any) -> int:
    """Return the optimizer's step counter: steps applied, without those that DeepSpeed skipped for overflow.

    Nothing is communicated; every rank gets the same value.
    """
    steps = _Layout(engine).steps()
    if len(steps) > 1:
        raise DiptychError(f"the optimizer's step counters differ between parameters: {sorted(steps)}")
    return steps.pop() if steps else 0


def gather_state(engine: Any) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """Yield the whole state of every trained parameter, one at a time, in ``named_parameters()`` order.

    Collective: every rank must run it to its end, between two steps. Tied parameters come once, under their first
    name. Memory: one tensor of one parameter on every rank's device, the parameter's tensors on its owner's CPU.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0 to 3.

    Yields:
        The parameter's name and, on rank ``index % world_size``, its tensors: fp32, on the CPU, of the parameter's
        full shape, bit for bit what the optimizer holds: ``weight`` (the master weight) with ``exp_avg`` and
        ``exp_avg_sq``, or with ``momentum_buffer`` for a Muon parameter. On the other ranks the dict is empty.
    """
    layout = _Layout(engine)
    layout.create_state()
    rank, world_size = dist.get_rank(), dist.get_world_size()
    for index, (name, param) in enumerate(_trained(engine)):
        held = layout.held(name, param)
        owner = index % world_size
        state: dict[str, torch.Tensor] = {}
        for key in (MASTER_WEIGHT, *layout.keys(held)):
            start, part, counts = layout.local(held, key)
            if layout.replicated:
                if rank == owner:
                    state[key] = part.to("cpu", torch.float32, copy=True).view(held.shape)
                continue
            whole = torch.zeros(held.shape.numel(), dtype=torch.float32, device=layout.device)
            if counts:
                whole.narrow(0, start, part.numel()).copy_(part)
            # Added as integers: all parts but one are 0 bits, so the sum is exact. As floats, -0.0 + 0.0 = 0.0.
            dist.reduce(whole.view(torch.int32), dst=owner)
            if rank == owner:
                state[key] = whole.view(held.shape).cpu()
        yield name, state


def restore_state(engine: Any, read: Callable[[str], ParameterState], step: int) -> None:
    """Set master weights, model weights, optimizer state and step counters, so that training goes on bit for bit.

    Collective: every rank must call it. If any rank fails, all ranks raise and the engine must not be used. Learning
    rates and the engine's own counters (``global_steps``) are not touched.

    Args:
        engine: A DeepSpeed engine, ZeRO stage 0 to 3, usually new: any stage, world size and offload, whatever those
            of the engine that was gathered from.
        read: Returns a parameter's whole tensors by its name, as `gather_state` yielded them. Called on every rank,
            once per trained parameter, in ``named_parameters()`` order.
        step: The step counter to set, from `optimizer_step`.
    """
    error: Exception | None = None
    try:
        layout = _Layout(engine)
        layout.create_state()
        for name, param in _trained(engine):
            _set_parameter(layout, name, layout.held(name, param), read(name))
        layout.set_step(step)
    except Exception as caught:  # whatever reading raises, the other ranks must hear of it before they wait for us
        error = caught
    failed = torch.tensor([int(error is not None)], device=engine.device)
    dist.all_reduce(failed, op=dist.ReduceOp.MAX)
    if error is not None:
        raise error
    if failed.item():
        raise DiptychError("another rank could not restore the training state: its message says why")
    layout.publish_masters()


def _set_parameter(layout: _Layout, name: str, held: _Held, state: ParameterState) -> None:
    wanted = (MASTER_WEIGHT, *layout.keys(held))
    if set(state) != set(wanted):
        raise DiptychError(
            f"the saved state of parameter {name} holds {sorted(state)} but {sorted(wanted)} is expected: "
            "resume with the optimizer that the run was started with"
        )
    for key in wanted:
        if state[key].shape != held.shape:
            raise DiptychError(
                f"the saved {key} of parameter {name} has shape {tuple(state[key].shape)} but {tuple(held.shape)} is "
                "expected: resume with the model that the run was started with"
            )
        start, part, _ = layout.local(held, key)
        part.copy_(state[key].reshape(-1).narrow(0, start, part.numel()))
