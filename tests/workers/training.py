"""What the ranks of test_training.py run: `workers/training.py FOLDER PLAN.json`, a list of runs in one process group.

Every run is a real `pretrain()` of its settings in FOLDER/NAME; beside it, FOLDER/NAME.json tells what no file of the
run does: the first weights, the rows of every step, what moved in the first step. The last run may be slowed down (to
be killed while it trains) or given a full disk.
"""

import gc
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.modeling_layers import GradientCheckpointingLayer

from pretrain.config.loading import load_config
from pretrain.config.sections import Config
from pretrain.data.corpus import Corpus
from pretrain.engine.state import gather_state
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.distributed import Ranks, start_ranks
from pretrain.training import trainer


class RecordedRun(trainer.Run):
    """A run that writes down what it does; `options` are those of the plan."""

    name = ""
    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, config: Config, corpus: Corpus, ranks: Ranks) -> None:
        super().__init__(config, corpus, ranks)
        self.record: dict[str, Any] = {"rows": {}, "checkpoints": {}, "predictors": list(self.tokenizer.predictors)}
        if self.options.get("published_bug"):  # the distance's gradient is not divided by the accumulation steps
            right = self.objective.weight
            self.objective.weight = lambda step: self.schedule.accumulation * right(step)

    def resume_or_start(self) -> int:
        first = super().resume_or_start()
        self.record["first"] = first
        self.record["weights"] = {name: digest(weight) for name, weight in self.gathered("weight").items()}
        return first

    def gathered(self, kind: str) -> dict[str, torch.Tensor]:
        """One tensor of every parameter, on every rank. Collective."""
        own = {name: state[kind] for name, state in gather_state(self.engine) if state}
        return {name: tensor for part in self.ranks.gather(own) for name, tensor in part.items()}

    def train_step(self, step: Any, batches: Any) -> int:
        rows = [row for micro_batch in step.micro_batches for row in micro_batch.rows if row]
        mine = [[row.epoch, row.index, *row.examples.tolist()] for row in rows]
        self.record["rows"][step.index + 1] = sorted(row for part in self.ranks.gather(mine) for row in part)
        watched = self.options.get("movement") and step.index == 0
        before = self.gathered("weight") if watched else {}
        if step.index + 1 == self.options.get("log_full_at") and self.ranks.is_main:
            metrics = self.config.run.folder / "metrics.jsonl"
            metrics.unlink()
            metrics.symlink_to("/dev/full")
        calls: list[int] = []
        block = next(
            module for module in self.engine.module.modules() if isinstance(module, GradientCheckpointingLayer)
        )
        # A part of the block: hooks of the block itself do not run when it is recomputed.
        hook = next(block.children()).register_forward_pre_hook(lambda *_: calls.append(1))
        done = super().train_step(step, batches)
        hook.remove()
        self.record["block_calls"] = len(calls) / len(batches)
        if watched:
            after, gradient = self.gathered("weight"), self.gathered("exp_avg")
            # Weight decay moves everything: what counts is what a gradient has reached, row by row.
            moved = {name: (after[name] != before[name]) & (gradient[name] != 0) for name in before}
            self.record["moved"] = {name: part.reshape(len(part), -1).any(1).tolist() for name, part in moved.items()}
        if step.index + 1 >= self.options.get("slow_from", self.num_steps + 1):
            time.sleep(1)
        return done

    def save(self, done: int, *, wait: bool) -> None:
        if done == self.options.get("disk_full_at") and self.ranks.rank == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
        super().save(done, wait=wait)

    def complete_save(self) -> None:
        super().complete_save()
        if self.ranks.is_main and self.checkpoint:
            kept = sorted(path.name for path in self.checkpoints.folder.iterdir())
            self.record["checkpoints"][int(self.checkpoint.name.removeprefix("step_"))] = kept

    def evaluate(self, done: int) -> None:
        if self.options.get("whole"):
            super().evaluate(done)

    def finish(self) -> Path:
        if self.ranks.is_main:
            path = Path(sys.argv[1], f"{self.name}.json")
            path.write_text(json.dumps(self.record))
        if self.options.get("whole"):
            return super().finish()
        self.monitor.close()
        return self.config.run.folder


def digest(tensor: torch.Tensor) -> str:
    return hashlib.sha256(tensor.contiguous().numpy().tobytes()).hexdigest()


def main(argv: Sequence[str]) -> int:
    folder, plan = Path(argv[0]), json.loads(Path(argv[1]).read_text())
    Path(folder, f"pid-{os.environ['RANK']}").write_text(str(os.getpid()))
    ranks = start_ranks(timeout_minutes=5)
    trainer.Run = RecordedRun  # type: ignore[misc]
    for RecordedRun.name, settings, RecordedRun.options in plan:
        started = time.monotonic()
        trainer.pretrain(load_config(None, [f"run.folder={folder / RecordedRun.name}", *settings]), ranks)
        gc.collect()
        if ranks.is_main:
            print(f"=== {RecordedRun.name}: {time.monotonic() - started:.1f} s", flush=True)
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))
