"""What is planned: a config, the machines, and what follows from both before any figure is estimated."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from launch.planner.devices import Gpu, Network
from launch.planner.rows import RowFigures, assumed_rows, measured_rows
from pretrain.config.model import ModelConfig
from pretrain.config.sections import Config
from pretrain.data.tokenizer import load
from pretrain.engine.config import zero_settings
from pretrain.footprint.load import Load, Sizes, measure_sizes
from pretrain.footprint.trace import TraceRequest
from pretrain.model.build import ParameterCounts, choose_attention, count_parameters, hf_config
from pretrain.runtime.errors import DiptychError


class _Model(NamedTuple):
    hf_config: Any
    counts: ParameterCounts
    sizes: Sizes
    attention: str


# Cached, because the search for a remedy asks for the same models repeatedly.
_MODELS: dict[tuple[Any, ...], _Model] = {}


@dataclass(frozen=True)
class Machines:
    """The cluster, as the command line names it.

    Attributes:
        gpus: Ranks, one on each GPU.
        gpus_per_node: GPUs of a full node.
        gpu: What they are.
        network: Between nodes.
        host_memory: Bytes of host memory of a node.
        disk: What the file system of the run folder takes in all, in GB/s.
    """

    gpus: int
    gpus_per_node: int
    gpu: Gpu
    network: Network
    host_memory: int = 1024 * 2**30
    disk: float = 2.0

    @property
    def nodes(self) -> int:
        """Nodes that are needed."""
        return math.ceil(self.gpus / self.gpus_per_node)

    @property
    def ranks_of_node(self) -> int:
        """Ranks of the fullest node."""
        return min(self.gpus, self.gpus_per_node)


@dataclass(frozen=True)
class Job(Load):
    """Everything that the estimates need.

    Attributes:
        machines: Where it runs.
        data: What is known of its rows.
    """

    machines: Machines
    data: RowFigures

    @property
    def tokens_per_step(self) -> int:
        """Tokens of an optimizer step over all ranks, padding left out."""
        return int(self.config.train.rows_per_step * self.config.packing.row_length * self.data.used)

    @property
    def labels_per_step(self) -> int:
        """Label tokens of an optimizer step over all ranks."""
        return int(self.tokens_per_step * self.data.labelled)

    @property
    def empty_share(self) -> float:
        """Share of computed rows that are empty."""
        return 1 - self.config.train.rows_per_step / (self.accumulation * self.machines.gpus * self.request.rows)

    @property
    def visible_per_token(self) -> float:
        """Tokens that a token sees on average: half of its view alone, or the other view besides."""
        return self.data.view_tokens / (2 if self.config.packing.layout == "independent" else 1)


def make_job(config: Config, machines: Machines, *, corpus: Path | None = None, used: float = 0.95) -> Job:
    """Makes a job of a config and machines.

    Args:
        config: The run's.
        machines: Where it is to run.
        corpus: Folder of the prepared corpus, for exact figures of its rows.
        used: Share of positions that hold tokens, without a corpus.

    Raises:
        DiptychError: The config cannot be run like this.
    """
    world = machines.gpus
    dtype = {"auto": torch.float32 if machines.gpu.is_cpu else torch.bfloat16}.get(config.train.precision)
    dtype = dtype or {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.train.precision]
    data = assumed_rows(config, used) if corpus is None else measured_rows(config, corpus, world)
    vocabulary = config.tokenizer.vocab_size
    if config.tokenizer.path is not None:
        vocabulary = load(config.tokenizer.path, config.tokenizer).vocab_size
    positions = data.longest if corpus is not None or config.model.path is None else 1
    ids = (1, 2, *range(3, 3 + config.tokenizer.predictor_tokens))
    micro = min(config.train.micro_batch_rows, math.ceil(config.train.rows_per_step / world))
    accumulation = math.ceil(config.train.rows_per_step / (world * micro))
    group = config.objective.group_rows
    if accumulation > 1 and world * micro % group:
        raise DiptychError(
            f"objective.group_rows: a group of {group} rows would be spread over accumulation steps of {world * micro} "
            "rows; raise train.micro_batch_rows or lower the group"
        )
    device = "cpu" if machines.gpu.is_cpu else "cuda"
    key = (config.model.model_dump_json(exclude={"activation_checkpointing"}), vocabulary, positions, ids, device)
    if key not in _MODELS:
        _MODELS[key] = _model(config.model, vocabulary, positions, ids, device)
    model = _MODELS[key]
    zero = zero_settings(
        config,
        micro_batch_rows=micro,
        accumulation=accumulation,
        world_size=world,
        dtype=dtype,
        shape=model.sizes.shape,
    )
    request = TraceRequest(
        rows=micro,
        row_length=config.packing.row_length,
        labels=max(1, int(micro * config.packing.row_length * data.labelled)),
        loss_chunk_tokens=config.train.loss_chunk_tokens,
        attention=model.attention,
        checkpointing=int(config.model.activation_checkpointing),
        dtype=dtype,
        lora=config.model.lora,
        lora_rows=ids,
    )
    return Job(
        config=config,
        machines=machines,
        data=data,
        hf_config=model.hf_config,
        counts=model.counts,
        sizes=model.sizes,
        world_size=world,
        on_cpu=machines.gpu.is_cpu,
        accumulation=accumulation,
        zero=zero,
        request=request,
    )


def _model(config: ModelConfig, vocabulary: int, positions: int, ids: Sequence[int], device: str) -> _Model:
    model = hf_config(config, vocab_size=vocabulary, bos=1, eos=2, pad=0, positions=positions)
    sizes = measure_sizes(model, config.lora, ids)
    counts = count_parameters(model, config.lora, ids)
    return _Model(model, counts, sizes, choose_attention(config, model, device))
