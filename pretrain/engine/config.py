"""The DeepSpeed configuration, generated from ours by one function: users never write DeepSpeed JSON.

DeepSpeed swallows unknown top-level keys silently (seen in 0.19.8), so what ``deepspeed.extra`` adds is checked here.
"""

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import ValidationError

from pretrain.config.sections import Config
from pretrain.model.blocks import Shape
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import nearest

EXTRA_KEYS: dict[str, type | tuple[type, ...]] = {
    "bf16": dict,
    "communication_data_type": str,
    "dump_state": bool,
    "gradient_predivide_factor": (int, float),
    "memory_breakdown": bool,
    "prescale_gradients": bool,
    "steps_per_print": int,
    "wall_clock_breakdown": bool,
    "zero_optimization": dict,
}
"""Top-level DeepSpeed keys that ``deepspeed.extra`` may set, and their types."""

REFUSED_KEYS = {
    "bf16.check_grad_overflow": "a step whose gradient is not finite must not be applied",
    "zero_optimization.compute_grad_norm": "a step whose gradient is not finite must not be applied",
    "zero_optimization.zero_hpz_partition_size": "checkpoints need one partition over all ranks",
}
"""Keys that would break what Diptych promises, and why."""

OWN_KEYS = {
    "train_batch_size": "train.rows_per_step",
    "train_micro_batch_size_per_gpu": "train.micro_batch_rows",
    "gradient_accumulation_steps": "train.rows_per_step and train.micro_batch_rows",
    "gradient_clipping": "optimizer.clip",
    "optimizer": "optimizer",
    "scheduler": "optimizer.schedule",
    "bf16.enabled": "train.precision",
    "fp16": "train.precision",
    "zero_optimization.stage": "deepspeed.zero_stage",
    "zero_allow_untested_optimizer": "optimizer.name",
    "zero_force_ds_cpu_optimizer": "optimizer.name",
    "activation_checkpointing": "model.activation_checkpointing",
    "data_types": "train.precision",
    "checkpoint": "checkpoint",
    "tensorboard": "logging.tensorboard",
}
"""Keys that are generated, and the setting of ours that decides each."""


SMALL_MODEL = 50_000_000
"""Parameters of a model whose weights ZeRO-3 need not partition: 0.1 GB in bfloat16."""

MOST_REDUCED = 500_000_000
"""Elements of the largest reduction bucket, as DeepSpeed has it."""


def zero3_sizes(shape: Shape) -> dict[str, Any]:
    """ZeRO-3's thresholds for a model, in parameters; DeepSpeed's own defaults are made for models of 10 B and more.

    A block is fetched while the one before it computes; gradients are reduced two blocks at a time. A small model's
    weights stay on every rank: fetching them costs more time than it saves memory. Its gradients and optimizer states
    are partitioned all the same.
    """
    sizes: dict[str, Any] = {
        # DeepSpeed's linear layer in Python: slower, and no help where a parameter's gathered data is released.
        "memory_efficient_linear": False,
        "stage3_prefetch_bucket_size": shape.block,
        "reduce_bucket_size": min(MOST_REDUCED, max(2 * shape.block, shape.largest)),
    }
    if shape.total <= SMALL_MODEL:
        sizes["stage3_param_persistence_threshold"] = shape.largest
    return sizes


def deepspeed_config(
    config: Config,
    *,
    micro_batch_rows: int,
    accumulation: int,
    world_size: int,
    bfloat16: bool,
    shape: Shape | None = None,
) -> dict[str, Any]:
    """The configuration for ``deepspeed.initialize``.

    Args:
        config: The run's config.
        micro_batch_rows: Rows per rank and forward pass.
        accumulation: Forward passes per optimizer step.
        world_size: Ranks.
        bfloat16: Compute in bfloat16 with float32 master weights, else in float32.
        shape: Of the model; None: DeepSpeed's own sizes of buffers.

    Raises:
        DiptychError: ``deepspeed.extra`` has an unknown key or one that is generated.
    """
    ours = config.deepspeed
    zero: dict[str, Any] = {"stage": ours.zero_stage}
    if ours.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if ours.offload_parameters:
        zero["offload_param"] = {"device": "cpu"}
    if ours.zero_stage == 3 and shape is not None:
        zero |= zero3_sizes(shape)
    if config.optimizer.name == "muon":
        zero["reduce_scatter"] = False  # Muon needs whole gradients; DeepSpeed refuses the combination
    generated: dict[str, Any] = {
        "train_batch_size": micro_batch_rows * accumulation * world_size,
        "train_micro_batch_size_per_gpu": micro_batch_rows,
        "gradient_accumulation_steps": accumulation,
        "gradient_clipping": config.optimizer.clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    if bfloat16:
        generated["bf16"] = {"enabled": True}
        if ours.zero_stage:  # stage 0 knows no other type than the model's
            generated["data_types"] = {"grad_accum_dtype": "fp32"}
    if problems := extra_problems(ours.extra):
        raise DiptychError("\n  ".join([f"deepspeed.extra: {len(problems)} problem(s)", *problems]))
    return _merged(generated, ours.extra)


def _merged(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in extra.items():
        below = result.get(key)
        result[key] = _merged(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return result


def zero_settings(
    config: Config, *, micro_batch_rows: int, accumulation: int, world_size: int, dtype: torch.dtype, shape: Shape
) -> Any:
    """ZeRO's settings as DeepSpeed completes them."""
    settings = deepspeed_config(
        config,
        micro_batch_rows=micro_batch_rows,
        accumulation=accumulation,
        world_size=world_size,
        bfloat16=dtype == torch.bfloat16,
        shape=shape,
    )
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig  # here: importing it takes seconds

    return DeepSpeedZeroConfig(**settings["zero_optimization"])


def extra_problems(extra: Mapping[str, Any]) -> list[str]:
    """What is wrong with ``deepspeed.extra``: unknown keys with the nearest known one, and generated keys."""
    problems: list[str] = []
    for key, value in extra.items():
        place = f"deepspeed.extra.{key}"
        if key in OWN_KEYS:
            problems.append(f"{place}: generated; set {OWN_KEYS[key]} instead")
        elif key not in EXTRA_KEYS:
            near = nearest(key, [*EXTRA_KEYS, *OWN_KEYS])
            hint = f"did you mean {OWN_KEYS.get(near, near)}?" if near else f"known: {', '.join(EXTRA_KEYS)}"
            problems.append(f"{place}: unknown key, or none that Diptych passes on; {hint}")
        elif not isinstance(value, EXTRA_KEYS[key]):
            problems.append(f"{place}: {value!r} is a {type(value).__name__}, which DeepSpeed does not expect here")
        elif key in ("zero_optimization", "bf16"):
            problems += _section_problems(key, value)
    return problems


def _section_problems(section: str, value: Any) -> list[str]:
    """Checks a section against DeepSpeed's own model of it."""
    from deepspeed.runtime.precision_config import DeepSpeedBF16Config
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig
    from deepspeed.runtime.zero.offload_config import (
        DeepSpeedZeroOffloadOptimizerConfig,
        DeepSpeedZeroOffloadParamConfig,
    )

    place = f"deepspeed.extra.{section}"
    problems = [
        f"{place}.{key}: generated; set {OWN_KEYS[f'{section}.{key}']} instead"
        for key in value
        if f"{section}.{key}" in OWN_KEYS
    ]
    problems += [
        f"{place}.{key}: refused, because {REFUSED_KEYS[f'{section}.{key}']}"
        for key in value
        if f"{section}.{key}" in REFUSED_KEYS
    ]
    for key, section_of in (("offload_param", "offload_parameters"), ("offload_optimizer", "offload_optimizer")):
        if isinstance(value.get(key), Mapping) and value[key].get("device", "cpu") != "cpu":
            problems.append(f"{place}.{key}.device: set deepspeed.{section_of}; only host memory is supported")
    model = {"zero_optimization": DeepSpeedZeroConfig, "bf16": DeepSpeedBF16Config}[section]
    known = [field.alias or name for name, field in model.model_fields.items()]
    nested = {
        "offload_param": DeepSpeedZeroOffloadParamConfig,
        "offload_optimizer": DeepSpeedZeroOffloadOptimizerConfig,
    }
    try:
        model(**value)
    except ValidationError as error:
        for item in error.errors():
            key = ".".join(str(part) for part in item["loc"])
            within = list(nested[str(item["loc"][0])].model_fields) if len(item["loc"]) > 1 else known
            unknown = item["type"] == "extra_forbidden"
            near = nearest(str(item["loc"][-1]), within) if unknown else None
            hint = f"; did you mean {near}?" if near else ""
            reason = "unknown DeepSpeed key" if unknown else item["msg"]
            problems.append(f"{place}.{key}: {reason}{hint}")
    return problems
