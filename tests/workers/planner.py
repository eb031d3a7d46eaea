"""What the ranks of test_planner.py run: `planner.py OUT CASE...`; what lives in real training steps, part by part.

A case is `zeroS-DTYPE[-checkpointing]`. Rank 0 writes for each the bytes of all tensors, as torch counts them, in the
third step (DeepSpeed knows the order of modules from the second on), and what the planner says of the same.
"""

import gc
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from launch.planner.devices import find_gpu, find_network
from launch.planner.job import Machines, make_job
from launch.planner.memory import CONTEXT, plan_memory
from pretrain.config.loading import load_config
from pretrain.engine.build import build_engine, step_engine
from pretrain.footprint.states import model_states
from pretrain.footprint.trace import Watch, empty_batch
from pretrain.runtime.command import exit_rank
from pretrain.runtime.distributed import Ranks, start_ranks

SETTINGS = (
    "model={type: llama, fields: {hidden_size: 192, intermediate_size: 512, num_hidden_layers: 6, "
    "num_attention_heads: 6, num_key_value_heads: 2, tie_word_embeddings: false}}",
    "tokenizer.vocab_size=3000",
    "packing.row_length=128",
    "train.micro_batch_rows=4",
    "train.rows_per_step=8",
    "train.loss_chunk_tokens=200",
    "model.attention=sdpa",
    "objective={lambda: 0}",
)
ZERO3 = {
    "reduce_bucket_size": 700_000,
    "stage3_prefetch_bucket_size": 100_000,
    "stage3_max_reuse_distance": 900_000,
    "stage3_param_persistence_threshold": 500,
}


def settings(case: str) -> list[str]:
    stage, dtype, *flags = case.split("-")
    number = int(stage[-1])
    extra: dict[str, Any] = {}
    if number:
        extra["zero_optimization"] = ZERO3 if number == 3 else {"reduce_bucket_size": ZERO3["reduce_bucket_size"]}
    return [
        *SETTINGS,
        f"deepspeed.zero_stage={number}",
        f"train.precision={dtype}",
        f"deepspeed.extra={json.dumps(extra)}",
        f"model.activation_checkpointing={str('checkpointing' in flags).lower()}",
    ]


class RealWatch(Watch):
    """Counts no tensors of the meta device, which DeepSpeed keeps some of."""

    def _count(self, storage: Any) -> None:
        if storage.device.type != "meta":
            super()._count(storage)


def measure(case: str, ranks: Ranks) -> dict[str, Any]:
    config = load_config(None, settings(case))
    machines = Machines(ranks.world_size, ranks.world_size, find_gpu("cpu"), find_network("ib-400"))
    job = make_job(config, machines)
    watch = RealWatch([])
    schedule = SimpleNamespace(micro_batch_rows=job.request.rows, accumulation=job.accumulation)
    with watch:
        engine = build_engine(config, job.hf_config, schedule, ranks)
        batch = empty_batch(job.request, "cpu")
        peaks: dict[str, int] = {}
        for _ in range(3):
            for name in ("pass", "step"):
                gc.collect()
                watch.peak = watch.living
                if name == "pass":
                    loss, states, _ = engine(batch)
                    engine.backward((loss + states[:1].float().sum()) / 1000, scale_wrt_gas=False)
                    del loss, states
                else:
                    norm = step_engine(engine)
                    assert norm is not None and math.isfinite(norm)
                peaks[name] = watch.peak
        gc.collect()
    planned = plan_memory(job)
    states, _ = model_states(job)
    sums = {moment: sum(parts.values()) - CONTEXT for moment, parts in planned.moments.items()}
    return {
        "measured": {"between": watch.living, **peaks},
        "planned": {
            "between": sum(states.values()),
            "pass": max(sums[moment] for moment in ("LM head", "blocks", "embedding")),
            "step": sums["optimizer step"],
        },
        "parts": dict(planned.moments),
    }


def main() -> None:
    out, *cases = sys.argv[1:]
    ranks = start_ranks(5)
    results = {case: measure(case, ranks) for case in cases}
    if ranks.is_main:
        Path(out).write_text(json.dumps(results, indent=1))
    ranks.barrier()


if __name__ == "__main__":
    main()
    exit_rank(0)
