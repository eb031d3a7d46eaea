"""The load of one rank: what its memory and computation follow from."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from pretrain.config.model import LoraConfig
from pretrain.config.sections import Config
from pretrain.footprint.trace import Trace, TraceRequest, trace
from pretrain.model.blocks import Shape, shape
from pretrain.model.build import ParameterCounts
from pretrain.model.initialization import meta_model
from pretrain.model.lora import add_lora

# The planner tries many settings with the same trace.
_TRACES: dict[tuple[str, TraceRequest], Trace] = {}


@dataclass(frozen=True)
class Sizes:
    """Numbers of parameters that decide what ZeRO holds at once.

    Attributes:
        largest_unit: Most parameters that ZeRO-3 gathers at once: a block, or the direct parameters of a module.
        largest_parameter: The largest trained parameter.
        weights: Parameters of each weight.
        shape: Sizes that ZeRO-3's buffers follow from.
        hidden: Parameters in the matrices that Muon would train.
    """

    largest_unit: int
    largest_parameter: int
    weights: tuple[int, ...]
    shape: Shape
    hidden: int


@dataclass(frozen=True)
class Load:
    """Everything about one rank that decides its memory.

    Attributes:
        config: The run's settings.
        hf_config: The model's Hugging Face config.
        counts: Numbers of parameters.
        sizes: Numbers of parameters that ZeRO partitions and gathers.
        world_size: Number of ranks.
        on_cpu: Whether they compute on the CPU.
        accumulation: Micro-batches of a rank in a step.
        zero: DeepSpeed's settings of ZeRO.
        request: The micro-batch.
    """

    config: Config
    hf_config: Any
    counts: ParameterCounts
    sizes: Sizes
    world_size: int
    on_cpu: bool
    accumulation: int
    zero: Any
    request: TraceRequest

    @property
    def compiled(self) -> bool:
        """Whether blocks are compiled (``model.compile``)."""
        setting = self.config.model.compile
        return setting is True or (setting == "auto" and not self.on_cpu)

    @property
    def small(self) -> int:
        """Parameters in weights that ZeRO-3 does not partition."""
        return sum(weight for weight in self.sizes.weights if weight <= self.zero.param_persistence_threshold)

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and computation."""
        return self.request.dtype

    @cached_property
    def trace(self) -> Trace:
        """The trace of a micro-batch, made when it is first used.

        Raises:
            DiptychError: The model cannot run on the meta device.
        """
        key = (str(self.hf_config.to_json_string(use_diff=False)), self.request)
        if key not in _TRACES:
            _TRACES[key] = trace(self.hf_config, self.request)
        return _TRACES[key]


def measure_sizes(hf_config: Any, lora: LoraConfig, ids: Sequence[int]) -> Sizes:
    """Counts the parameters of a model that is not built.

    Args:
        hf_config: The model's Hugging Face config.
        lora: LoRA settings; rank 0 trains the whole model.
        ids: Ids of the tokens whose rows LoRA trains.
    """
    twin = meta_model(hf_config)
    if lora.rank:
        add_lora(twin, lora, ids=ids, seed=0)
    apart = {id(module.weight) for module in twin.modules() if isinstance(module, nn.Embedding)}
    apart |= {id(parameter) for parameter in twin.get_output_embeddings().parameters()}
    trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]
    model_shape = shape(twin)
    direct = max(sum(parameter.numel() for parameter in module.parameters(recurse=False)) for module in twin.modules())
    return Sizes(
        largest_unit=max(direct if lora.rank else model_shape.block, direct),
        largest_parameter=max(parameter.numel() for parameter in trained),
        weights=tuple(parameter.numel() for parameter in twin.parameters()),
        shape=model_shape,
        hidden=sum(parameter.numel() for parameter in trained if parameter.ndim > 1 and id(parameter) not in apart),
    )
