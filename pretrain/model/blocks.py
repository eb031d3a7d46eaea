"""The blocks of a model: the modules that are gathered, recomputed and compiled as one."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer

from pretrain.model.initialization import has_own_code
from pretrain.model.network import check_compiler
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.zero import full_size


class Shape(NamedTuple):
    """What the sizes of ZeRO-3's buffers follow from, in parameters.

    Attributes:
        total: Of the model.
        block: Of its largest block; without blocks that are known, of its largest module.
        largest: Of its largest weight.
    """

    total: int
    block: int
    largest: int


def shape(lm: nn.Module) -> Shape:
    """The shape of a model, partitioned or not."""
    units = blocks(lm)
    if not units:
        units = [module for module in lm.modules() if not any(module.children())]
    weights = {id(parameter): full_size(parameter) for parameter in lm.parameters()}
    return Shape(
        total=sum(weights.values()),
        block=max(sum(map(full_size, unit.parameters())) for unit in units),
        largest=max(weights.values()),
    )


def blocks(lm: nn.Module) -> list[nn.Module]:
    """The transformer blocks in the order of the forward pass; none if the model's code has no such class."""
    return [module for module in lm.modules() if isinstance(module, GradientCheckpointingLayer)]


def recompute_blocks(lm: Any, every: int) -> None:
    """Lets every ``every``-th block, from the first on, keep its input alone and compute the rest anew.

    Reentrant checkpointing breaks ZeRO-3's gradient buckets (DeepSpeed issue 5321), so it is not on offer.
    """
    lm.activation_checkpointing_enable({"use_reentrant": False}, every_n_layers=every)


def compile_problem(setting: Literal["auto"] | bool, lm: Any, device: torch.device) -> str | None:
    """Why blocks are not compiled, or None if they are.

    Args:
        setting: ``model.compile``.
        lm: The model.
        device: Where it trains.

    Raises:
        DiptychError: They cannot be, and the setting is True.
    """
    if setting is False:
        return "model.compile is false"
    try:
        if not blocks(lm):
            raise DiptychError(f"model.compile: {lm.config.model_type!r} has no blocks that are known")
        check_compiler("model.compile", "true", "set model.compile=false")
    except DiptychError as error:
        if setting is True:
            raise
        return str(error)
    if setting is True:
        return None
    if device.type != "cuda":
        return "auto compiles on CUDA alone: elsewhere it takes minutes to win seconds"
    if has_own_code(lm.config):
        return "auto leaves a model with code of its own as it is"
    return None


def compile_blocks(lm: nn.Module) -> None:
    """Compiles the blocks' forward passes for training; evaluation and generation, whose shapes vary, stay eager.

    Hooks, such as ZeRO-3's, run outside of what is compiled. Blocks of one class share what was compiled. What dynamo
    cannot compile runs eagerly, with a warning.
    """
    units = blocks(lm)
    settings = torch._dynamo.config
    settings.suppress_errors = True
    # Where a guard tells blocks from each other, each is compiled by itself; eight of them is the default limit.
    settings.recompile_limit = max(settings.recompile_limit, 2 * len(units))
    compiled = {kind: torch.compile(kind.forward, dynamic=False) for kind in {type(unit) for unit in units}}
    for unit in units:
        unit.forward = _compiled_in_training(unit, compiled[type(unit)])  # type: ignore[method-assign]


def _compiled_in_training(block: nn.Module, compiled: Callable[..., Any]) -> Callable[..., Any]:
    eager = block.forward

    @functools.wraps(eager)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return compiled(block, *args, **kwargs) if block.training else eager(*args, **kwargs)

    return forward
