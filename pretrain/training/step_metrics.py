"""What a run writes about the steps since its last line."""

from typing import TYPE_CHECKING

from pretrain.data.schedule import Step
from pretrain.model.build import training_flops
from pretrain.training.monitor import memory_gib, peak_flops

if TYPE_CHECKING:
    from pretrain.training.trainer import Run


def step_metrics(run: "Run", step: Step, learning_rate: float) -> dict[str, float]:
    """Means and speeds since the last call; ``step`` is the last one done."""
    totals, seconds, steps = run.progress.take()
    config = run.config
    metrics = {"train/loss": totals.loss / steps, "train/lm_loss": totals.lm_sum / max(1.0, totals.labels)}
    if run.objective.needs_branches:
        metrics["train/pair_loss"] = totals.pair_sum / max(1.0, totals.pairs)
        metrics["train/lambda"] = run.objective.weight(step.index)
    if run.objective.balance_weight:
        metrics["train/balance_loss"] = totals.balance_sum / max(1.0, totals.tokens)
    metrics |= {
        "train/lr": learning_rate,
        "train/grad_norm": run.grad_norm,
        "train/epoch": step.epoch,
        "train/label_tokens": run.progress.label_tokens,
        "speed/label_tokens_per_second": totals.labels / seconds,
        "speed/tokens_per_second": totals.tokens / seconds,
        "speed/padding_share": 1 - totals.tokens / totals.positions,
        "memory/gib": memory_gib(run.ranks.device),
    }
    peak = peak_flops(config.logging, run.ranks.device, run.built.dtype)
    flops = training_flops(
        run.built.hf_config,
        run.counts,
        tokens=int(totals.tokens),
        labels=int(totals.labels),
        visible=int(totals.visible),
        frozen=bool(config.model.lora.rank),
    )
    if peak and flops:
        metrics["speed/mfu"] = flops / seconds / (peak * run.ranks.world_size)
    return metrics
