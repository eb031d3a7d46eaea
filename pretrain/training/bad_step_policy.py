"""What a run does about a bad step: stop, leave it out, or go back to its last checkpoint first."""

from typing import TYPE_CHECKING

from torch import Tensor

from pretrain.checkpoint.checkpoints import read_state
from pretrain.data.schedule import Step
from pretrain.engine.gradients import discard_gradients
from pretrain.training.diagnosis import gather_reports, stop_bad_step
from pretrain.training.ledger import open_ledger

if TYPE_CHECKING:
    from pretrain.training.trainer import Run


def act_on_bad_step(run: "Run", why: str, step: Step, *, loss: float, own: Tensor, learning_rate: float) -> int:
    """Does what ``train.on_bad_step`` asks. Collective, before the step has touched any weight.

    Args:
        run: The run.
        why: What is wrong with the step.
        step: The step.
        loss: Of the step over all ranks.
        own: This rank's sums of next-token losses and of distances, shape [2].
        learning_rate: Of the step.

    Returns:
        The number of steps done: the step is left out, or the run went back.

    Raises:
        DiptychError: The policy is to stop.
    """
    config, ranks, done = run.config, run.ranks, step.index + 1
    discard_gradients(run.engine)
    values = dict(zip(("lm loss", "pair loss"), own.tolist(), strict=True))
    reports = gather_reports(values, step.micro_batches, run.corpus, ranks)
    policy = run.bad_steps.record(step.index, why, loss=loss, learning_rate=learning_rate, reports=reports, ranks=ranks)
    run.complete_save()  # what was saved before counts, also for a run that stops
    if policy == "stop":
        stop_bad_step(
            why,
            reports,
            step=done,
            learning_rate=learning_rate,
            last_grad_norm=run.grad_norm,
            left_out=len(run.bad_steps.left_out),
            folder=config.run.folder,
            ranks=ranks,
        )
    if policy == "rollback":
        run.watchdog.beat(f"going back from step {done}", patience=3)
        path, skipped = run.checkpoints.newest()
        for line in skipped:
            run.monitor.say(line)
        if path := path or run.checkpoint:
            first = run.go_on_from(path, read_state(path))
            run.monitor.say(f"step {done}: {why}; back to step {first}, from where it is left out")
            ranks.agree(lambda: run.monitor.go_back(first))
            if run.ledger:
                run.ledger = open_ledger(config.run.folder / "ledger", first, ranks)
            return first
    run.monitor.say(f"step {done}: {why}; left out, its rows are in {config.run.folder / 'bad_steps.jsonl'}")
    return run.pass_over(step)
