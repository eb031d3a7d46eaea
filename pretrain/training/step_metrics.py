"""Metrics of the steps since the last log line."""

from pretrain.data.schedule import Step
from pretrain.model.build import training_flops
from pretrain.training.assemble import Parts
from pretrain.training.monitor import memory_gib, peak_flops
from pretrain.training.progress import RunningTotals


def step_metrics(
    parts: Parts, progress: RunningTotals, step: Step, *, learning_rate: float, grad_norm: float
) -> dict[str, float]:
    """Means and speeds since the last call; ``step`` is the last one done."""
    totals, seconds, steps = progress.take()
    config, ranks = parts.config, parts.ranks
    metrics = {"train/loss": totals.loss / steps, "train/lm_loss": totals.lm_sum / max(1.0, totals.labels)}
    if parts.objective.needs_branches:
        metrics["train/pair_loss"] = totals.pair_sum / max(1.0, totals.pairs)
        metrics["train/lambda"] = parts.objective.weight(step.index)
    if parts.objective.balance_weight:
        metrics["train/balance_loss"] = totals.balance_sum / max(1.0, totals.tokens)
    metrics |= {
        "train/lr": learning_rate,
        "train/grad_norm": grad_norm,
        "train/epoch": step.epoch,
        "train/label_tokens": progress.label_tokens,
        "speed/label_tokens_per_second": totals.labels / seconds,
        "speed/tokens_per_second": totals.tokens / seconds,
        "speed/padding_share": 1 - totals.tokens / totals.positions,
        "memory/gib": memory_gib(ranks.device),
    }
    peak = peak_flops(config.logging, ranks.device, parts.dtype)
    flops = training_flops(
        parts.hf_config,
        parts.counts,
        tokens=int(totals.tokens),
        labels=int(totals.labels),
        visible=int(totals.visible),
        frozen=bool(config.model.lora.rank),
    )
    if peak and flops:
        metrics["speed/mfu"] = flops / seconds / (peak * ranks.world_size)
    return metrics
