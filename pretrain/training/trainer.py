"""A run from start to end: prepare, build, resume, train, evaluate, save, export."""

import hashlib
import math
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NoReturn

import torch

from pretrain.checkpoint.checkpoints import Checkpoints, RunState, read_canary, read_state, restore
from pretrain.checkpoint.export import export
from pretrain.config.sections import Config
from pretrain.data.batch import Batch
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus, read_corpus
from pretrain.data.prefetch import prefetch
from pretrain.data.schedule import Cursor, Step
from pretrain.data.tokenizer import Tokenizer
from pretrain.engine.build import set_learning_rate, step_engine
from pretrain.engine.gradients import discard_gradients
from pretrain.engine.rank_drift import compare_ranks
from pretrain.engine.state import optimizer_step
from pretrain.model.canary import canary, check_canary
from pretrain.model.trial import try_model
from pretrain.preparation.prepare import prepare
from pretrain.probing.prober import Prober
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.preemption import Preempted, preemption
from pretrain.runtime.watchdog import Watchdog
from pretrain.training.assemble import assemble
from pretrain.training.bad_steps import BadSteps
from pretrain.training.diagnosis import BadStep, gather_reports, stop_bad_step
from pretrain.training.evaluation import Evaluator
from pretrain.training.introduction import introduction
from pretrain.training.ledger import open_ledger
from pretrain.training.monitor import Monitor
from pretrain.training.profiling import StepProfiler, waiting_for_data
from pretrain.training.progress import RunningTotals, StepSums
from pretrain.training.resumption import choose_checkpoint
from pretrain.training.run_folder import check_run_folder, claim_run_folder, describe_run
from pretrain.training.step_metrics import step_metrics


def pretrain(config: Config, ranks: Ranks) -> Path:
    """Runs a config to its end. Collective.

    Returns:
        The Hugging Face folder of the trained model.
    """
    return train(config, ranks, Run)


def train(config: Config, ranks: Ranks, run_factory: "Callable[[Any, Corpus, Ranks], Run]") -> Path:
    """Runs a config of any stage to its end. Collective.

    Args:
        config: The stage's config.
        ranks: All ranks.
        run_factory: Makes the run of the stage: :class:`Run` or a subclass.

    Returns:
        The Hugging Face folder of the trained model.
    """
    ranks.on_main(lambda: check_run_folder(config))  # on one rank: NFS caches that a folder is missing
    ranks.on_main(lambda: try_model(config.model))  # before any work
    folder = ranks.on_main(lambda: prepare(config))
    corpus = ranks.agree(lambda: read_corpus(folder))
    if ranks.on_main(
        lambda: config.run.folder.exists()
    ):  # a new folder is made only later, when nothing can be refused
        ranks.on_main(lambda: claim_run_folder(config))
    run = run_factory(config, corpus, ranks)
    note = ranks.on_main(lambda: claim_run_folder(config))
    done = run.resume_or_start()
    with closing(run.monitor), closing(run.watchdog), run.watchdog.traced(), preemption.kept():
        if note:
            run.monitor.say(note)
        run.run_due_events(done)
        steps = run.batches(done)
        while not run.is_finished(done):
            run.step_started = time.perf_counter()  # includes the wait for data
            before = done
            with run.profiler.step(done + 1):
                with waiting_for_data():
                    step, batches = next(steps)
                done = run.train_step(step, batches)
            if done <= before:  # the run rolled back to a checkpoint
                steps.close()
                steps = run.batches(done)
            if run.asked_to_stop:
                run.save_and_requeue(done)
            run.run_due_events(done)
        return run.finish()


class Run:
    """A run of pre-training; other stages override what differs.

    Attributes:
        should_stop: Set by an evaluation that ends the run early.
        events_done: Whether the evaluation, probe and checkpoint due after the last step are done.
        asked_to_stop: Set by a step during which some rank was told to stop.
    """

    should_stop = False
    events_done = False
    asked_to_stop = False

    def __init__(self, config: Config, corpus: Corpus, ranks: Ranks) -> None:
        self.config, self.corpus, self.ranks = config, corpus, ranks
        self.parts = parts = assemble(config, corpus, ranks, self.frame_pairs)
        self.tokenizer, self.objective, self.schedule = parts.tokenizer, parts.objective, parts.schedule
        self.num_steps = parts.num_steps
        self.cursor = Cursor()
        self.engine = parts.build_engine()
        self.evaluator = Evaluator(config, corpus, parts.tokenizer, parts.branches, ranks)
        self.prober = Prober(config, corpus, parts.tokenizer, parts.branches, ranks) if config.probe.every else None
        self.checkpoints = Checkpoints(config.run.folder / "checkpoints", config.checkpoint, ranks)
        self.bad_steps = BadSteps(config.train, config.run.folder)
        self.progress = RunningTotals()
        self.grad_norm = math.nan
        self.step_started = 0.0
        self.evaluated: dict[str, float] = {}
        self.checkpoint: Path | None = None

    def frame_pairs(self, branches: Branches, tokenizer: Tokenizer) -> Branches:
        """The layout of pairs with the stage's prompt around them; pre-training has none."""
        return branches

    def resume_or_start(self) -> int:
        """Loads the checkpoint that the config asks for; returns the number of steps done. Collective."""
        config, ranks = self.config, self.ranks
        found = choose_checkpoint(config, self.checkpoints, self.corpus.fingerprint, self.num_steps, ranks)
        self.origin = found.origin
        first = 0
        if found.path is not None and found.state is not None:
            first = self.resume_from(found.path, found.state)
        else:
            self.bad_steps.load_state_dict({}, ranks)
        ranks.agree(lambda: describe_run(config, self.corpus.folder / "tokenizer", first) if ranks.is_main else None)
        ranks.on_main(lambda: self.checkpoints.check_room(self.parts.counts.trained))
        self.monitor = ranks.agree(
            lambda: Monitor(
                config.run.folder, config.logging, active=ranks.is_main, first_step=first, num_steps=self.num_steps
            )
        )
        self.profiler = StepProfiler(config.logging.profile, config.run.folder / "profile", ranks)
        self.watchdog = Watchdog(config.run.folder / "traces", ranks.rank, config.train.hang_minutes)
        self.ledger = open_ledger(config.run.folder / "ledger", first, ranks) if config.logging.ledger else None
        for line in (*found.lines, *introduction(self.parts, self.prober, self.checkpoint, self.engine.module.lm)):
            self.monitor.say(line)
        self.schedule.start_from(self.cursor)
        return first

    def resume_from(self, path: Path, state: RunState) -> int:
        """Restores a checkpoint; returns the number of steps done. Collective."""
        restore(path, self.engine, state)
        check_canary(self.engine, read_canary(path), state.dtype, self.ranks.device)
        self.checkpoint = path
        self.progress = RunningTotals(state.label_tokens, state.tokens)
        self.evaluated = dict(state.extra.get("evaluation", {}))
        self.events_done = bool(state.extra.get("settled", True))
        self.bad_steps.load_state_dict(state.extra.get("bad_steps", {}), self.ranks)
        self.load_state_dict(state.extra)
        self.cursor = Cursor(**state.cursor)
        return state.step

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what a subclass added to :meth:`state_dict`."""

    def batches(self, first: int) -> Generator[tuple[Step, list[Batch]], None, None]:
        """The steps from number ``first`` on, each with this rank's micro-batches."""
        pin = self.ranks.device.type == "cuda"
        return prefetch(self.schedule, self.parts.builder, first, self.num_steps, pin=pin)

    def train_step(self, step: Step, batches: list[Batch]) -> int:
        """One optimizer step, unless it is bad. Collective.

        Returns:
            The number of steps done; it is no larger than before if the run rolled back to a checkpoint.
        """
        config, ranks, engine = self.config, self.ranks, self.engine
        if reason := self.bad_steps.left_out.get(step.index):
            self.monitor.say(f"step {step.index + 1}: left out again ({reason})")
            return self.skip_step(step)
        self.watchdog.beat(f"step {step.index + 1}", patience=1 if self.progress.warm else 3)
        torch.manual_seed(_seed(config.run.seed, step.index, ranks.rank))
        rate = config.optimizer.lr * set_learning_rate(engine, config.optimizer, step.index, self.num_steps)
        sums = self.accumulate_gradients(step, batches)
        # The one point of a step where the host waits for the device; only the optimizer is launched after it.
        totals = sums.over_ranks(ranks, asked=preemption.received is not None, saved=self.checkpoints.written)
        self.asked_to_stop = totals.asked_to_stop > 0
        loss = math.nan if totals.not_finite else totals.loss
        reason = self.bad_steps.verdict(loss)
        grad_norm = None if reason else step_engine(engine)
        if grad_norm is None or not math.isfinite(grad_norm):
            discard_gradients(engine)
            reports = gather_reports(sums.local_losses(), step.micro_batches, self.corpus, ranks)
            reason = reason or "the gradient norm is not finite"
            return self.handle_bad_step(step, BadStep(step.index + 1, reason, loss, rate, self.grad_norm, reports))
        self.bad_steps.add_good(loss)
        if self.ledger:
            self.ledger.add(step)
        self.grad_norm = grad_norm
        self.cursor, self.events_done = step.cursor, False
        if totals.saved == ranks.world_size:
            self.complete_save()
        self.progress.add(totals, time.perf_counter() - self.step_started)
        done = step.index + 1
        if done == 1 or done % config.logging.every == 0 or done == self.num_steps:
            metrics = step_metrics(self.parts, self.progress, step, learning_rate=rate, grad_norm=grad_norm)
            ranks.agree(lambda: self.monitor.log(done, metrics))
        self.monitor.advance()
        if config.train.compare_ranks_every and done % config.train.compare_ranks_every == 0:
            compare_ranks(engine, ranks)
        return done

    def accumulate_gradients(self, step: Step, batches: list[Batch]) -> StepSums:
        """Forward and backward passes of this rank's micro-batches; returns their losses and counts. Collective."""
        sums = StepSums()
        for number, cpu_batch in enumerate(batches, start=1):
            batch = cpu_batch.to(self.ranks.device)
            lm_sum, states, balance = self.engine(batch)
            terms = self.objective(states, lm_sum, batch, step, balance)
            sums.add(terms, batch)
            # DeepSpeed averages gradients over ranks; the loss is already divided by the counts of the whole step.
            self.engine.backward(terms.loss * self.ranks.world_size, scale_wrt_gas=False)
            if number < len(batches):
                step_engine(self.engine)
        return sums

    def handle_bad_step(self, step: Step, bad: BadStep) -> int:
        """Stops, skips the step or rolls back, as :class:`BadSteps` decides; no weight was changed. Collective.

        Returns:
            The number of steps done: with this one if it is skipped, those of the checkpoint after a rollback.

        Raises:
            DiptychError: The run stops.
        """
        action = self.bad_steps.decide(bad, self.ranks)
        self.complete_save()  # so that a run that stops keeps it
        if action == "stop":
            stop_bad_step(bad, len(self.bad_steps.left_out), self.config.run.folder, self.ranks)
        if action == "rollback" and (first := self.roll_back(bad)) is not None:
            return first
        rows = self.config.run.folder / "bad_steps.jsonl"
        self.monitor.say(f"step {bad.number}: {bad.reason}; left out, its rows are in {rows}")
        return self.skip_step(step)

    def roll_back(self, bad: BadStep) -> int | None:
        """Restores the newest checkpoint; returns its number of steps, or None if there is none. Collective."""
        self.watchdog.beat(f"going back from step {bad.number}", patience=3)
        path, skipped = self.checkpoints.newest()
        for line in skipped:
            self.monitor.say(line)
        if not (path := path or self.checkpoint):
            return None
        first = self.resume_from(path, read_state(path))
        self.monitor.say(f"step {bad.number}: {bad.reason}; back to step {first}, from where it is left out")
        self.ranks.agree(lambda: self.monitor.go_back(first))
        if self.ledger:
            self.ledger = open_ledger(self.config.run.folder / "ledger", first, self.ranks)
        return first

    def skip_step(self, step: Step) -> int:
        """Counts a step that is left out as done."""
        self.cursor, self.events_done = step.cursor, False
        self.monitor.advance()
        return step.index + 1

    def is_finished(self, done: int) -> bool:
        """Whether the run ends after ``done`` steps."""
        return done == self.num_steps or self.should_stop

    def is_due(self, done: int, every: int) -> bool:
        """Whether what is done ``every`` so many steps, and at the end, is due after ``done`` steps."""
        return self.is_finished(done) or done % every == 0

    def run_due_events(self, done: int) -> None:
        """Evaluates, probes and saves where that is due after ``done`` steps. Collective."""
        if self.events_done:
            return
        config = self.config
        try:
            if self.is_due(done, config.evaluation.every) and self.evaluated.get("step") != done:
                self.watchdog.beat(f"evaluation after step {done}", patience=3)
                self.evaluate(done)
            if self.prober and self.is_due(done, config.probe.every):
                self.watchdog.beat(f"probe after step {done}", patience=3)
                self.probe(done)
        except Preempted:  # on all ranks; the next start does the rest
            self.save_and_requeue(done)
        self.events_done = True
        if done and (self.is_due(done, config.checkpoint.every) or self.checkpoints.worth_keeping == done):
            self.save(done, wait=self.is_finished(done))
        self.watchdog.beat(f"waiting for the data of step {done + 1}")

    def save_and_requeue(self, done: int) -> NoReturn:
        """Saves a checkpoint for the next start and ends this process. Collective.

        Raises:
            Preempted: Always; its exit status asks Slurm to requeue the job.
        """
        if not done:
            raise Preempted("asked to stop before the first step; start the run again")
        self.save(done, wait=True)
        if warning := self.checkpoints.late(max(self.ranks.gather(preemption.seconds_since()))):
            self.monitor.say(warning)
        raise Preempted(f"asked to stop: step {done} of {self.num_steps} is saved; start the run again to go on")

    def evaluate(self, done: int) -> None:
        """Computes held-out metrics and sample texts after ``done`` steps, then writes them. Collective."""
        metrics = self.heldout_metrics(done)
        texts = self.evaluator.samples(self.engine)
        self.evaluated = {"step": done, **metrics}
        self.ranks.agree(lambda: self.monitor.log(done, metrics))
        self.ranks.agree(lambda: self.monitor.samples(done, texts))

    def heldout_metrics(self, done: int) -> dict[str, float]:
        """Metrics on held-out records after ``done`` steps. Collective."""
        return self.evaluator.run(self.engine)

    def probe(self, done: int) -> None:
        """Scores a linear probe of held-out embeddings after ``done`` steps. Collective."""
        if self.prober is None:
            return
        metrics = self.prober.run(self.engine)
        if not metrics:
            self.monitor.say(f"step {done}  probe: left out, embeddings are not finite")
            return
        self.ranks.agree(lambda: self.monitor.log_probe(done, self.progress.label_tokens, metrics))

    def save(self, done: int, *, wait: bool) -> None:
        """Begins to write a checkpoint. Collective.

        Args:
            done: Steps done.
            wait: Return when it is committed; else a later step commits it, once all ranks have written their files.
        """
        self.watchdog.beat(f"checkpoint of step {done}", patience=3)
        self.ranks.agree(lambda: self.corpus.check_unchanged() if self.ranks.is_main else None)
        state = self.parts.run_state(done, optimizer_step(self.engine), self.cursor, self.progress, self.state_dict())
        self.complete_save()
        self.checkpoints.begin(self.engine, state, canary(self.engine, self.parts.canary_ids(), self.ranks.device))
        self.saved_step = done
        if wait or not self.config.checkpoint.asynchronous:
            self.complete_save()

    def complete_save(self) -> None:
        """Waits for the save in flight, if there is one, and commits its checkpoint. Collective."""
        path = self.checkpoints.complete()
        if path is None:
            return
        self.checkpoint = path
        self.ranks.agree(lambda: self.monitor.log(self.saved_step, self.checkpoints.metrics()))
        self.monitor.flush()
        if warning := self.checkpoints.too_slow():
            self.monitor.say(warning)

    def finish(self) -> Path:
        """Exports the chosen checkpoint, else the last, as a Hugging Face folder. Collective."""
        out = self.config.run.folder / "export"
        kept = self.checkpoints.worth_keeping
        checkpoint = self.checkpoint if kept is None else self.checkpoints.path(kept)
        assert checkpoint is not None  # the last step was saved, by this process or an earlier start
        tokenizer, is_main = self.config.run.folder / "tokenizer", self.ranks.is_main
        self.watchdog.beat("export", patience=3)
        try:
            self.ranks.agree(
                lambda: export(checkpoint, tokenizer, out) if is_main and not out.exists() else None, long=is_main
            )
        except Preempted:
            raise Preempted("asked to stop during the export; start the run again to export") from None
        self.monitor.say(f"model: {out} (open it with AutoModelForCausalLM.from_pretrained)")
        return out

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint stores of the loop, for :meth:`resume_from` and the model card."""
        return {
            "evaluation": self.evaluated,
            "settled": self.events_done,
            "origin": self.origin,
            "bad_steps": self.bad_steps.state_dict(),
        }


def _seed(seed: int, step: int, rank: int) -> int:
    """Seed of model dropout in a step on a rank, so that a resumed run repeats an uninterrupted one."""
    return int.from_bytes(hashlib.sha256(f"{seed} step {step} rank {rank}".encode()).digest()[:8], "big") >> 1
