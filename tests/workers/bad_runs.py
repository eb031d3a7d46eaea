"""What the ranks of test_bad_runs.py run: `workers/bad_runs.py FOLDER PLAN.json`, a list of runs in one process group.

Every run is a real `pretrain()` whose numbers are broken on purpose; beside its folder, NAME.json tells how it ended.
"""

import gc
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pretrain.config.loading import load_config
from pretrain.objectives.mixed import LossTerms
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.distributed import start_ranks
from pretrain.runtime.errors import DiptychError
from pretrain.training import bad_steps, trainer

bad_steps.FEWEST = 4


class BrokenRun(trainer.Run):
    """A run in which things go wrong; `options` are those of the plan."""

    options: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.micro_batches = 0
        right = type(self.objective).__call__

        class Broken(type(self.objective)):  # type: ignore[misc]
            def __call__(_, *args: Any) -> LossTerms:
                return self.broken(right(self.objective, *args), args[3].index)  # after states, lm_sum and batch

        self.objective.__class__ = Broken

    def broken(self, terms: LossTerms, index: int) -> LossTerms:
        self.micro_batches += 1
        how, last_rank = self.options.get("broken", {}).get(str(index)), self.ranks.rank == 1
        if how == "loss" and last_rank and self.micro_batches == 2:
            return replace(terms, loss=terms.loss * torch.nan, lm_sum=terms.lm_sum * torch.nan)
        if how == "gradient" and last_rank and self.micro_batches == 1:
            return replace(terms, loss=terms.loss + (terms.loss * 0).sqrt())  # 0, and its slope inf * 0
        if how == "spike":
            return replace(terms, loss=terms.loss * 9)
        return terms

    def train_step(self, step: Any, batches: Any) -> int:
        self.micro_batches = 0
        if step.index == self.options.get("crash_at"):
            raise KeyError("crashed")
        if step.index == self.options.get("touch_at") and self.ranks.is_main:
            path = next(self.corpus.folder.glob("train/*/*.arrow"))
            os.utime(path)
        if step.index == self.options.get("flip_at") and self.ranks.rank == 1:
            weight = self.engine.module.lm.model.norm.weight
            weight.data.view(torch.int32)[3] ^= 1
        return super().train_step(step, batches)

    def evaluate(self, done: int) -> None:
        pass

    def finish(self) -> Path:
        self.monitor.close()
        return self.config.run.folder


def main(argv: Sequence[str]) -> int:
    folder, plan = Path(argv[0]), json.loads(Path(argv[1]).read_text())
    ranks = start_ranks(timeout_minutes=5)
    trainer.Run = BrokenRun  # type: ignore[misc]
    for name, settings, BrokenRun.options in plan:
        end = "finished"
        try:
            trainer.pretrain(load_config(None, [f"run.folder={folder / name}", *settings]), ranks)
        except (DiptychError, KeyError) as error:
            end = str(error)
        ends = ranks.gather(end)
        if ranks.is_main:
            Path(folder, f"{name}.json").write_text(json.dumps(ends))
        gc.collect()
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))
