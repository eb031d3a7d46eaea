"""What the ranks of test_stopping.py run: `workers/stopping.py FOLDER PLAN.json`, runs in one process group.

Rank 1 is the one to which things happen: `signal_at` sends it SIGUSR1 during a step, `hang_at` lets it hang in one.
`signal_in` names work between two steps and how many are done: the signal comes in its middle, and to rank 0 where that
works alone. With `clock_jumps` the time of day is another one, up to two days away, whenever a rank looks at it.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pretrain.config.loading import load_config
from pretrain.probing import prober
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.distributed import Ranks, start_ranks
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.leaving import leave_if_asked
from pretrain.runtime.preemption import Preempted, preemption
from pretrain.training import evaluation, trainer

CLOCK, DRAWN = time.time, random.Random(0)


class DisturbedRun(trainer.Run):
    options: dict[str, Any] = {}  # noqa: RUF012
    done = asked = 0
    work = ""

    def train_step(self, step: Any, batches: Any) -> int:
        if self.ranks.rank == 1 and step.index + 1 == self.options.get("signal_at"):
            os.kill(os.getpid(), signal.SIGUSR1)
        if self.ranks.rank == 1 and step.index + 1 == self.options.get("hang_at"):
            time.sleep(1000)
        return super().train_step(step, batches)

    def run_due_events(self, done: int) -> None:
        DisturbedRun.done = done
        super().run_due_events(done)

    def evaluate(self, done: int) -> None:
        begin("evaluation")
        super().evaluate(done)

    def probe(self, done: int) -> None:
        begin("probe")
        super().probe(done)


class Evaluator(evaluation.Evaluator):
    def samples(self, engine: Any) -> list[tuple[str, str]]:
        begin("samples")
        return super().samples(engine)


def begin(work: str) -> None:
    DisturbedRun.work, DisturbedRun.asked = work, 0


def disturb(work: str) -> None:
    if DisturbedRun.options.get("signal_in") == [work, DisturbedRun.done]:
        os.kill(os.getpid(), signal.SIGUSR1)


def ask(ranks: Ranks) -> None:
    """Asks as the product does; rank 1 is signalled before the second batch, or after the one sample."""
    DisturbedRun.asked += 1
    if ranks.rank == 1 and DisturbedRun.asked == (1 if DisturbedRun.work == "samples" else 2):
        disturb(DisturbedRun.work)
    leave_if_asked(ranks)


def alone(work: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """What rank 0 does alone."""

    def call(*arguments: Any) -> Any:
        disturb(work)
        return function(*arguments)

    return call


def jumping_clock() -> float:
    return CLOCK() + DRAWN.uniform(-2, 2) * 86_400


def main(argv: Sequence[str]) -> int:
    folder, plan = Path(argv[0]), json.loads(Path(argv[1]).read_text())
    ranks = start_ranks(timeout_minutes=5)
    trainer.Run, trainer.Evaluator = DisturbedRun, Evaluator  # type: ignore[misc]
    evaluation.leave_if_asked = prober.leave_if_asked = ask
    prober.Prober._scores = alone("scores", prober.Prober._scores)  # type: ignore[method-assign]
    trainer.export = alone("export", trainer.export)
    for name, settings, DisturbedRun.options in plan:
        time.time = jumping_clock if DisturbedRun.options.get("clock_jumps") else CLOCK
        try:
            trainer.pretrain(load_config(None, [f"run.folder={folder / name}", *settings]), ranks)
        except (Preempted, DiptychError) as stop:
            print(f"=== {name}: {stop}", flush=True)
            preemption.received = None
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))
