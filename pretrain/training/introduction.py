"""Lines that a run prints before its first step."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from pretrain.config.sections import Config
from pretrain.data.corpus import Corpus
from pretrain.data.tokenizer import load
from pretrain.engine.learning_rate import warmup_notes
from pretrain.model.blocks import compile_problem
from pretrain.probing.prober import Prober
from pretrain.training.assemble import Parts
from pretrain.training.run_schedule import mixture_lines


def data_notes(config: Config, corpus: Corpus) -> Iterator[str]:
    """Notes on tokens added to the tokenizer and on texts that were cut."""
    opened = config.model.path and config.tokenizer.path
    if opened and (added := load(opened, config.tokenizer).added):
        yield f"note: the tokenizer had no {' '.join(added)}: added, with embeddings to be trained"
    counts = corpus.manifest["splits"]["train"]
    if cut := counts["first_truncated"] + counts["second_truncated"]:
        yield f"note: {cut:,} views are longer than data.max_view_tokens or a row allows, and were cut"


def compile_note(setting: Literal["auto"] | bool, lm: Any, device: torch.device) -> Iterator[str]:
    """Why a GPU's blocks are not compiled, if ``model.compile`` left it open."""
    if setting == "auto" and device.type == "cuda" and (why := compile_problem(setting, lm, device)):
        yield f"note: blocks are not compiled ({why}), which takes more time and memory"


def introduction(parts: Parts, prober: Prober | None, resumed_from: Path | None, lm: Any) -> Iterator[str]:
    """Lines on model size, data, ranks, and notes on settings that may surprise."""
    config, corpus, schedule = parts.config, parts.corpus, parts.schedule
    plan = schedule.plan(0)
    only = f" (LoRA trains {parts.counts.trained:,})" if config.model.lora.rank else ""
    used = plan.num_tokens.sum() / (plan.num_rows * config.packing.row_length)
    yield (
        f"{parts.counts.total:,} parameters{only}, {len(corpus.train):,} records, "
        f"{'' if parts.rows_counted else 'about '}{parts.rows_per_epoch:,} rows an epoch "
        f"({used:.1%} of positions used), {parts.num_steps:,} steps of {config.train.rows_per_step} rows"
    )
    yield from data_notes(config, corpus)
    if prober and prober.copies.num_repeated:
        yield (
            f"note: {prober.copies.num_repeated:,} of {len(prober.labels):,} probed first views are copies of "
            "others; copies of a text are in one fold of cross-validation"
        )
    yield from mixture_lines(config, corpus, parts.epochs)
    yield (
        f"{parts.ranks.world_size} rank(s) on {parts.ranks.device.type}, ZeRO-{config.deepspeed.zero_stage}, "
        f"{str(parts.dtype).removeprefix('torch.')}, accumulation {schedule.accumulation}; "
        f"run folder {config.run.folder}" + (f"; resumed from {resumed_from}" if resumed_from else "")
    )
    yield from compile_note(config.model.compile, lm, parts.ranks.device)
    yield from warmup_notes(config, parts.num_steps)
    if schedule.empty_share:
        yield (
            f"note: {schedule.empty_share:.0%} of computed rows are empty, because train.rows_per_step "
            f"{config.train.rows_per_step} is no multiple of ranks x train.micro_batch_rows"
        )
