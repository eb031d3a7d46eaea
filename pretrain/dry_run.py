"""``--dry-run``: what a run would be, before it costs anything. Writes nothing."""

import copy
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from pretrain.batch import BatchBuilder
from pretrain.config import Config
from pretrain.config_file import dump_config
from pretrain.corpus import Corpus, read_corpus
from pretrain.distributed import Ranks
from pretrain.engine import build_engine, compute_dtype, longest_position, model_config, step_engine
from pretrain.lora import special_rows
from pretrain.model import ParameterCounts, count_parameters, training_flops
from pretrain.objectives.mixed import MixedObjective, make_branches
from pretrain.plan import make_schedule, mixture_lines
from pretrain.prepare import prepare
from pretrain.run_folder import check_run_folder
from pretrain.tokenizer import load


@dataclass(frozen=True)
class Memory:
    """Estimated bytes on one rank at its peak.

    Attributes:
        states: Weights, gradients, float32 master weights and optimizer moments, as partitioned by the ZeRO stage.
        gathered: The largest layer, gathered whole while it computes (stage 3).
        activations: Kept for the backward pass.
        logits: Of one chunk of label tokens, with their gradient.
        host: Of the states, what lies in host memory because it is offloaded.
    """

    states: int
    gathered: int
    activations: int
    logits: int
    host: int

    @property
    def device(self) -> int:
        """Bytes on the device."""
        return self.states - self.host + self.gathered + self.activations + self.logits


def estimate_memory(
    config: Config, hf_config: Any, counts: ParameterCounts, dtype: torch.dtype, world_size: int, micro_batch_rows: int
) -> Memory:
    """Estimates the memory of one rank (ZeRO, arXiv 1910.02054, section 3; activations by layer, arXiv 2205.05198)."""
    stage, size = config.deepspeed.zero_stage, dtype.itemsize
    low = size < 4
    shares = {"weights": 3, "gradients": 2, "optimizer": 1}  # each is partitioned from this stage on
    numbers = {"weights": counts.total, "gradients": counts.trained, "optimizer": counts.trained}
    cut = {name: numbers[name] / (world_size if stage >= first else 1) for name, first in shares.items()}
    weights, gradients = cut["weights"] * size, cut["gradients"] * 4  # accumulated in float32
    moments = 4 if config.optimizer.name == "muon" else 8
    optimizer = cut["optimizer"] * (moments + (4 if low else 0))
    host = (optimizer if config.deepspeed.offload_optimizer else 0) + (
        weights if config.deepspeed.offload_parameters else 0
    )
    layers, width = hf_config.num_hidden_layers, hf_config.hidden_size
    inner = getattr(hf_config, "intermediate_size", None) or 4 * width
    per_layer = (counts.total - counts.embedding - counts.head) // layers
    gathered = max(per_layer * 2, counts.head or counts.total // 10) * size if stage == 3 else 0
    positions = micro_batch_rows * config.packing.row_length
    kept = width if config.model.activation_checkpointing else 10 * width + 4 * inner
    activations = positions * layers * kept * size
    labels = min(positions, config.train.loss_chunk_tokens)
    logits = labels * hf_config.vocab_size * (4 + 4 + size)
    return Memory(int(weights + gradients + optimizer), gathered, activations, logits, int(host))


def dry_run(config: Config, ranks: Ranks) -> None:
    """Prints the resolved config, sizes and costs, and runs one mock step. Collective; writes nothing that stays."""
    ranks.agree(lambda: check_run_folder(config))
    with tempfile.TemporaryDirectory(prefix="diptych-dry-run-") as scratch:
        folder = ranks.gather(scratch)[0]
        # The corpus is needed for the exact number of rows; a prepared one is used, else one is made to be thrown away.
        prepared = ranks.on_main(lambda: _corpus_folder(config, Path(folder)))
        corpus = ranks.agree(lambda: read_corpus(prepared))
        _report_and_step(config, corpus, ranks)
        ranks.barrier()


def _corpus_folder(config: Config, scratch: Path) -> Path:
    if config.data.folder.is_dir():
        for prepared in config.data.folder.glob("*/manifest.json"):
            linked = scratch / prepared.parent.name
            if not linked.exists():
                os.symlink(prepared.parent.resolve(), linked)
    data = config.data.model_copy(update={"folder": scratch})
    return prepare(config.model_copy(update={"data": data}))


def _report_and_step(config: Config, corpus: Corpus, ranks: Ranks) -> None:
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    branches = make_branches(
        config.packing, config.objective, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors
    )
    objective = MixedObjective(config.objective, ranks.rank, ranks.world_size)
    schedule = make_schedule(config, corpus, branches, objective, ranks)
    hf_config = model_config(config, tokenizer, longest_position(config, corpus, branches))
    lora_rows = special_rows(tokenizer, branches.eos)
    counts = count_parameters(hf_config, config.model.lora, lora_rows)
    dtype = compute_dtype(config, ranks.device)
    memory = estimate_memory(config, hf_config, counts, dtype, ranks.world_size, schedule.micro_batch_rows)
    num_steps = config.train.steps or schedule.num_steps(config.train.epochs or 1.0)
    rows_per_epoch, counted = schedule.rows_per_epoch()
    epochs = num_steps * config.train.rows_per_step / rows_per_epoch
    plan = schedule.plan(0)
    rows = config.train.rows_per_step
    tokens, labels = int(plan.num_tokens.mean() * rows), int(plan.num_labels.mean() * rows)
    sources = corpus.train.sources
    mean_view = sum(span.mean_tokens * span.count for span in sources) / (2 * sum(span.count for span in sources))
    flops = training_flops(
        hf_config,
        counts,
        tokens=tokens,
        labels=labels,
        visible=int(tokens * mean_view),
        frozen=bool(config.model.lora.rank),
    )
    used = plan.num_tokens.sum() / (plan.num_rows * config.packing.row_length)

    def say(text: str) -> None:
        if ranks.is_main:
            print(text, flush=True)

    say(dump_config(config))
    say(f"parameters            {counts.total:,} ({counts.total - counts.embedding - counts.head:,} in the blocks)")
    say(f"vocabulary            {hf_config.vocab_size:,}")
    say(f"records               {len(corpus.train):,} to train on, {len(corpus.heldout):,} held out")
    for line in mixture_lines(config, corpus, epochs):
        say(line)
    about = "" if counted else "about "
    say(f"rows                  {about}{rows_per_epoch:,} an epoch, {used:.1%} of positions used")
    say(
        f"tokens per step       {tokens:,} computed, {labels:,} with a label, "
        f"{rows * config.packing.row_length:,} positions"
    )
    say(f"steps                 {num_steps:,} ({about}{epochs:.2f} epochs)")
    if flops is not None:
        say(f"FLOPs                 {flops:.2e} a step, {flops * num_steps:.2e} in all")
    say(
        f"ranks                 {ranks.world_size} on {ranks.device.type}, ZeRO-{config.deepspeed.zero_stage}, "
        f"{str(dtype).removeprefix('torch.')}, {schedule.micro_batch_rows} rows x {schedule.accumulation} per step"
    )
    say(
        f"memory per rank       about {_size(memory.device)}: states {_size(memory.states - memory.host)}, "
        f"gathered layers {_size(memory.gathered)}, activations {_size(memory.activations)}, "
        f"logits {_size(memory.logits)}" + (f"; {_size(memory.host)} in host memory" if memory.host else "")
    )
    checkpoint_bytes = counts.trained * 12
    say(f"disk per checkpoint   {_size(checkpoint_bytes)}")
    builder = BatchBuilder(corpus.train, branches, config.packing.row_length, tokenizer.pad)
    free, model = _free_memory(ranks), config.model
    if memory.device <= free:
        name, rows_here = "mock step", schedule.micro_batch_rows
    else:
        hf_config, rows_here = _shrunken(hf_config), 1
        model = model.model_copy(update={"path": None})  # whose weights fit no shrunken model
        name = f"mock step of a shrunken model ({_size(memory.device)} do not fit the {_size(free)} free here)"
    # One micro-batch on each rank: accumulation would only repeat it.
    train = config.train.model_copy(
        update={"micro_batch_rows": rows_here, "rows_per_step": rows_here * ranks.world_size}
    )
    mock = config.model_copy(update={"train": train, "model": model})
    loss, norm = _mock_step(mock, corpus, hf_config, lora_rows, builder, objective, ranks)
    say(f"{name}: loss {loss:.4f}, gradient norm {norm:.3f}; nothing was written")


def _mock_step(
    config: Config,
    corpus: Corpus,
    hf_config: Any,
    lora_rows: Sequence[int],
    builder: BatchBuilder,
    objective: MixedObjective,
    ranks: Ranks,
) -> tuple[float, float]:
    """Loss and gradient norm of one forward, backward and optimizer step on the first rows."""
    schedule = make_schedule(config, corpus, builder.branches, objective, ranks)
    engine = build_engine(config, hf_config, schedule, ranks, lora_rows).engine
    step = schedule.step(0)
    batch = builder.build(step.micro_batches[0]).to(ranks.device)
    lm_sum, states = engine(batch)
    terms = objective(states, lm_sum, batch, step)
    engine.backward(terms.loss * ranks.world_size, scale_wrt_gas=False)
    norm = step_engine(engine)
    assert norm is not None
    return ranks.sum(terms.loss.detach().double().reshape(1))[0], norm


def _shrunken(hf_config: Any) -> Any:
    """The same kind of model with two thin layers."""
    twin = copy.deepcopy(hf_config)
    twin.num_hidden_layers = 2
    twin.hidden_size = 16 * twin.num_attention_heads
    for name, value in {"head_dim": 16, "intermediate_size": 2 * twin.hidden_size}.items():
        if getattr(twin, name, None) is not None:
            setattr(twin, name, value)
    return twin


def _free_memory(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return int(torch.cuda.mem_get_info(ranks.device)[0])
    return int(psutil.virtual_memory().available / max(1, int(os.environ.get("LOCAL_SIZE", ranks.world_size))))


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
