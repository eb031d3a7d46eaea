"""What a run says about itself before its first step."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pretrain.config.sections import Config
from pretrain.data.corpus import Corpus
from pretrain.data.tokenizer import load
from pretrain.engine.learning_rate import warmup_notes
from pretrain.training.run_schedule import mixture_lines

if TYPE_CHECKING:
    from pretrain.training.trainer import Run


def data_notes(config: Config, corpus: Corpus) -> Iterator[str]:
    """What may surprise about the tokenizer and the texts of a run."""
    opened = config.model.path and config.tokenizer.path
    if opened and (added := load(opened, config.tokenizer).added):
        yield f"note: the tokenizer had no {' '.join(added)}: added, with embeddings to be trained"
    counts = corpus.manifest["splits"]["train"]
    if cut := counts["first_truncated"] + counts["second_truncated"]:
        yield f"note: {cut:,} views are longer than their most tokens and were cut"


def introduction(run: "Run") -> Iterator[str]:
    """Lines on size, data, ranks and what may surprise."""
    config, schedule = run.config, run.schedule
    plan = schedule.plan(0)
    only = f" (LoRA trains {run.counts.trained:,})" if config.model.lora.rank else ""
    used = plan.num_tokens.sum() / (plan.num_rows * config.packing.row_length)
    yield (
        f"{run.counts.total:,} parameters{only}, {len(run.corpus.train):,} records, "
        f"{'' if run.rows_counted else 'about '}{run.rows_per_epoch:,} rows an epoch "
        f"({used:.1%} of positions used), {run.num_steps:,} steps of {config.train.rows_per_step} rows"
    )
    yield from data_notes(config, run.corpus)
    if run.prober and run.prober.copies.num_repeated:
        yield (
            f"note: {run.prober.copies.num_repeated:,} of {len(run.prober.labels):,} probed first views are copies of "
            "others; copies of a text are in one fold of cross-validation"
        )
    yield from mixture_lines(config, run.corpus, run.num_steps * config.train.rows_per_step / run.rows_per_epoch)
    yield (
        f"{run.ranks.world_size} rank(s) on {run.ranks.device.type}, ZeRO-{config.deepspeed.zero_stage}, "
        f"{str(run.built.dtype).removeprefix('torch.')}, accumulation {schedule.accumulation}; "
        f"run folder {config.run.folder}" + (f"; resumed from {run.checkpoint}" if run.checkpoint else "")
    )
    yield from warmup_notes(config, run.num_steps)
    if schedule.empty_share:
        yield (
            f"note: {schedule.empty_share:.0%} of computed rows are empty, because train.rows_per_step "
            f"{config.train.rows_per_step} is no multiple of ranks x train.micro_batch_rows"
        )
