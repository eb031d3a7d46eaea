"""What the ranks of test_stopping.py run: `stopping_worker.py FOLDER PLAN.json`, runs in one process group.

Rank 1 is the one to which things happen: `signal_at` sends it SIGUSR1 during a step, `hang_at` lets it hang in one.
With `clock_jumps` the time of day is another one, up to two days away, whenever a rank looks at it.
"""

import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pretrain import trainer
from pretrain.command import exit_rank, run_command
from pretrain.config_file import load_config
from pretrain.distributed import start_ranks
from pretrain.preemption import Preempted, preemption

CLOCK, DRAWN = time.time, random.Random(0)


class DisturbedRun(trainer.Run):
    options: dict[str, Any] = {}  # noqa: RUF012

    def train_step(self, step: Any, batches: Any) -> int:
        if self.ranks.rank == 1 and step.index + 1 == self.options.get("signal_at"):
            os.kill(os.getpid(), signal.SIGUSR1)
        if self.ranks.rank == 1 and step.index + 1 == self.options.get("hang_at"):
            time.sleep(1000)
        return super().train_step(step, batches)


def jumping_clock() -> float:
    return CLOCK() + DRAWN.uniform(-2, 2) * 86_400


def main(argv: Sequence[str]) -> int:
    folder, plan = Path(argv[0]), json.loads(Path(argv[1]).read_text())
    ranks = start_ranks(timeout_minutes=5)
    trainer.Run = DisturbedRun  # type: ignore[misc]
    preemption.listen()
    for name, settings, DisturbedRun.options in plan:
        time.time = jumping_clock if DisturbedRun.options.get("clock_jumps") else CLOCK
        try:
            trainer.pretrain(load_config(None, [f"run.folder={folder / name}", *settings]), ranks)
        except Preempted as stop:
            print(f"=== {name}: {stop}", flush=True)
            preemption.received = None
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))
