"""``--dry-run``: what a run would be, before it costs anything. Writes nothing."""

import os
import tempfile
import textwrap
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import psutil
import torch

from pretrain.config.loading import dump_config
from pretrain.config.sections import Config
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus, read_corpus
from pretrain.data.tokenizer import Tokenizer
from pretrain.engine.build import build_engine, step_engine
from pretrain.engine.config import zero_settings
from pretrain.engine.learning_rate import warmup_notes
from pretrain.footprint.load import Load, measure_sizes
from pretrain.footprint.states import model_states, moments
from pretrain.footprint.trace import TraceRequest
from pretrain.model.build import choose_attention, training_flops
from pretrain.model.sizes import small_config
from pretrain.model.trial import try_model
from pretrain.preparation.prepare import prepare
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.training.assemble import Parts, assemble
from pretrain.training.introduction import data_notes
from pretrain.training.run_folder import check_run_folder
from pretrain.training.run_schedule import make_schedule, mixture_lines

Look: TypeAlias = Callable[[Corpus, Tokenizer, Any], Iterable[str]]


def dry_run(
    config: Config,
    ranks: Ranks,
    frame: Callable[[Branches, Tokenizer], Branches] = lambda branches, _: branches,
    look: Look = lambda corpus, tokenizer, hf_config: (),
) -> None:
    """Prints the resolved config, sizes and costs, and runs one mock step. Collective; writes nothing that stays.

    Args:
        config: Of any stage.
        ranks: All ranks.
        frame: Puts what a stage adds around the views of a pair.
        look: Checks what a stage needs besides, given the Hugging Face config of the model; yields lines on it.
    """
    ranks.on_main(lambda: check_run_folder(config))
    ranks.on_main(lambda: try_model(config.model))
    with tempfile.TemporaryDirectory(prefix="diptych-dry-run-") as scratch:
        folder = ranks.gather(scratch)[0]
        # The exact number of rows needs the corpus: a prepared one is used, else a temporary one is made.
        prepared = ranks.on_main(lambda: _corpus_folder(config, Path(folder)))
        corpus = ranks.agree(lambda: read_corpus(prepared))
        _report_and_step(config, corpus, ranks, frame, look)
        ranks.barrier()


def _corpus_folder(config: Config, scratch: Path) -> Path:
    if config.data.folder.is_dir():
        for prepared in config.data.folder.glob("*/manifest.json"):
            linked = scratch / prepared.parent.name
            if not linked.exists():
                os.symlink(prepared.parent.resolve(), linked)
    data = config.data.model_copy(update={"folder": scratch})
    return prepare(config.model_copy(update={"data": data}))


def _report_and_step(
    config: Config, corpus: Corpus, ranks: Ranks, frame: Callable[[Branches, Tokenizer], Branches], look: Look
) -> None:
    parts = assemble(config, corpus, ranks, frame)
    schedule, counts, hf_config = parts.schedule, parts.counts, parts.hf_config
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
    if config.model.lora.rank:
        say(f"trained by LoRA       {counts.trained:,}")
    say(f"vocabulary            {hf_config.vocab_size:,}")
    say(f"records               {len(corpus.train):,} to train on, {len(corpus.heldout):,} held out")
    for line in ranks.on_main(lambda: [*data_notes(config, corpus), *look(corpus, parts.tokenizer, parts.hf_config)]):
        say(line)
    for line in mixture_lines(config, corpus, parts.epochs):
        say(line)
    about = "" if parts.rows_counted else "about "
    say(f"rows                  {about}{parts.rows_per_epoch:,} an epoch, {used:.1%} of positions used")
    say(
        f"tokens per step       {tokens:,} computed, {labels:,} with a label, "
        f"{rows * config.packing.row_length:,} positions"
    )
    say(f"steps                 {parts.num_steps:,} ({about}{parts.epochs:.2f} epochs)")
    for line in warmup_notes(config, parts.num_steps):
        say(line)
    if flops is not None:
        say(f"FLOPs                 {flops:.2e} a step, {flops * parts.num_steps:.2e} in all")
    say(
        f"ranks                 {ranks.world_size} on {ranks.device.type}, ZeRO-{config.deepspeed.zero_stage}, "
        f"{str(parts.dtype).removeprefix('torch.')}, {schedule.micro_batch_rows} rows x {schedule.accumulation} "
        "per step"
    )
    needed = _report_memory(_load_of_rank(parts, labels // rows), say)
    checkpoint_bytes = counts.trained * 12
    say(f"disk per checkpoint   {_size(checkpoint_bytes)}")
    free, model = _free_memory(ranks), config.model
    if needed <= free:
        name, rows_here = "mock step", schedule.micro_batch_rows
    else:
        hf_config, rows_here = small_config(hf_config, vocab_size=hf_config.vocab_size, positions=None), 1
        model = model.model_copy(update={"path": None})  # whose weights fit no shrunken model
        name = f"mock step of a shrunken model ({_size(needed)} do not fit the {_size(free)} free here)"
    # One micro-batch on each rank: accumulation would only repeat it.
    train = config.train.model_copy(
        update={"micro_batch_rows": rows_here, "rows_per_step": rows_here * ranks.world_size}
    )
    mock = config.model_copy(update={"train": train, "model": model})
    loss, norm = _mock_step(mock, hf_config, parts)
    say(f"{name}: loss {loss:.4f}, gradient norm {norm:.3f}; nothing was written")


def _report_memory(load: Load, say: Callable[[str], None]) -> int:
    """Says what one rank needs; returns its bytes on the device."""
    device, host = model_states(load)
    try:
        added = moments(load)
    except DiptychError as error:  # no trace without values: the states alone
        say(f"activations           unknown: {error}")
        added = {"states alone": {}}
    peak = max(added, key=lambda moment: sum(added[moment].values()))
    parts = device | added[peak]
    needed = sum(parts.values())
    say(_wrapped(f"memory per rank       about {_size(needed)} at most ({peak}): {_listed(parts)}"))
    if any(host.values()):
        say(_wrapped(f"host memory per rank  {_listed(host)}"))
    return needed


def _load_of_rank(parts: Parts, labels_per_row: int) -> Load:
    config, schedule, hf_config = parts.config, parts.schedule, parts.hf_config
    micro, world_size, device = schedule.micro_batch_rows, parts.ranks.world_size, parts.ranks.device.type
    sizes = measure_sizes(hf_config, config.model.lora, parts.lora_rows)
    zero = zero_settings(
        config,
        micro_batch_rows=micro,
        accumulation=schedule.accumulation,
        world_size=world_size,
        dtype=parts.dtype,
        shape=sizes.shape,
    )
    return Load(
        config=config,
        hf_config=hf_config,
        counts=parts.counts,
        sizes=sizes,
        world_size=world_size,
        on_cpu=device == "cpu",
        accumulation=schedule.accumulation,
        zero=zero,
        request=TraceRequest(
            rows=micro,
            row_length=config.packing.row_length,
            labels=max(1, micro * labels_per_row),
            loss_chunk_tokens=config.train.loss_chunk_tokens,
            attention=choose_attention(config.model, hf_config, device),
            checkpointing=int(config.model.activation_checkpointing),
            dtype=parts.dtype,
            lora=config.model.lora,
            lora_rows=parts.lora_rows,
        ),
    )


def _mock_step(config: Config, hf_config: Any, parts: Parts) -> tuple[float, float]:
    """Loss and gradient norm of one forward, backward and optimizer step on the first rows."""
    ranks, objective = parts.ranks, parts.objective
    schedule = make_schedule(config, parts.corpus, parts.branches, objective, ranks)
    engine = build_engine(config, hf_config, schedule, ranks, parts.lora_rows)
    step = schedule.step(0)
    batch = parts.builder.build(step.micro_batches[0]).to(ranks.device)
    lm_sum, states, balance = engine(batch)
    terms = objective(states, lm_sum, batch, step, balance)
    engine.backward(terms.loss * ranks.world_size, scale_wrt_gas=False)
    norm = step_engine(engine)
    assert norm is not None
    return ranks.sum(terms.loss.detach().double().reshape(1))[0], norm


def _free_memory(ranks: Ranks) -> int:
    if ranks.device.type == "cuda":
        return int(torch.cuda.mem_get_info(ranks.device)[0])
    return int(psutil.virtual_memory().available / max(1, int(os.environ.get("LOCAL_SIZE", ranks.world_size))))


def _listed(parts: Mapping[str, int]) -> str:
    return "; ".join(f"{part} {_size(size)}" for part, size in parts.items() if size)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 120, subsequent_indent=" " * 22, drop_whitespace=True)


def _size(size: float) -> str:
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.1f} MiB"
