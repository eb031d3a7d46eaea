"""The story of a run: prepare, build, resume, train, evaluate, save, export."""

import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NoReturn

import torch

from pretrain.batch import Batch, BatchBuilder
from pretrain.branches import Branches
from pretrain.checkpoint import Checkpoints, RunState, difference, read_canary, read_state, restore
from pretrain.config import Config
from pretrain.config_file import identity
from pretrain.corpus import Corpus, read_corpus
from pretrain.diagnosis import stop_not_finite
from pretrain.distributed import Ranks
from pretrain.engine import build_engine, longest_position, model_config, set_learning_rate, step_engine
from pretrain.engine_state import optimizer_step
from pretrain.errors import DiptychError
from pretrain.evaluation import Evaluator
from pretrain.export import canary, check_canary, export
from pretrain.introduction import introduction
from pretrain.ledger import Ledger, next_attempt
from pretrain.lora import special_rows
from pretrain.model import count_parameters, training_flops
from pretrain.monitor import Monitor, memory_gib, peak_flops
from pretrain.objectives.mixed import LossTerms, MixedObjective, make_branches
from pretrain.plan import make_schedule
from pretrain.preemption import Preempted, preemption
from pretrain.prepare import prepare
from pretrain.probing.prober import Prober
from pretrain.progress import Progress, Totals, sum_over_ranks
from pretrain.run_folder import check_run_folder, claim_run_folder, describe_run
from pretrain.schedule import Cursor, MicroBatch, Step
from pretrain.tokenizer import load
from pretrain.watchdog import Watchdog

_PLANNED = ("model.", "tokenizer.", "data.", "packing.", "run.seed", "train.rows_per_step")
"""Settings that a checkpoint of another run must share."""


def pretrain(config: Config, ranks: Ranks) -> Path:
    """Runs a config to its end. Collective.

    Returns:
        The Hugging Face folder of the trained model.
    """
    return train(config, ranks, Run)


def train(config: Config, ranks: Ranks, kind: "Callable[[Any, Corpus, Ranks], Run]") -> Path:
    """Runs a config of any stage to its end. Collective.

    Args:
        config: The stage's config.
        ranks: All ranks.
        kind: How the stage differs from pre-training.

    Returns:
        The Hugging Face folder of the trained model.
    """
    ranks.agree(lambda: check_run_folder(config))
    folder = ranks.on_main(lambda: prepare(config))
    corpus = ranks.agree(lambda: read_corpus(folder))
    note = ranks.on_main(lambda: claim_run_folder(config))
    run = kind(config, corpus, ranks)
    done = run.resume_or_start()
    with closing(run.monitor), closing(run.watchdog), preemption.kept():
        if note:
            run.monitor.say(note)
        run.settle(done)
        steps = run.batches(done)
        while not run.over(done):
            run.train_step(*next(steps))
            done += 1
            if run.asked_to_stop:
                run.stop_to_go_on(done)
            run.settle(done)
        return run.finish()


class Run:
    """The parts of a run and what each stage of it does with them.

    Attributes:
        enough: Set by an evaluation after which the run need not go on.
        settled: Whether evaluation, probe and checkpoint that were due after the last step are done.
        asked_to_stop: Set by a step during which some rank was told to stop.
    """

    enough = False
    settled = False
    asked_to_stop = False

    def __init__(self, config: Config, corpus: Corpus, ranks: Ranks) -> None:
        self.config, self.corpus, self.ranks = config, corpus, ranks
        self.tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
        self.branches = self.make_branches()
        self.objective = MixedObjective(config.objective, ranks.rank, ranks.world_size)
        self.schedule = make_schedule(config, corpus, self.branches, self.objective, ranks)
        train = config.train
        self.num_steps = train.steps or self.schedule.num_steps(train.epochs or 1.0)
        self.rows_per_epoch, self.rows_counted = self.schedule.rows_per_epoch()
        self.cursor = Cursor()
        self.builder = BatchBuilder(corpus.train, self.branches, config.packing.row_length, self.tokenizer.pad)
        hf_config = model_config(config, self.tokenizer, longest_position(config, corpus, self.branches))
        self.lora_rows = special_rows(self.tokenizer, self.branches.eos) if config.model.lora.rank else ()
        self.built = build_engine(config, hf_config, self.schedule, ranks, self.lora_rows)
        self.engine = self.built.engine
        self.counts = count_parameters(hf_config, config.model.lora, self.lora_rows)
        self.evaluator = Evaluator(config, corpus, self.tokenizer, self.branches, ranks)
        self.prober = Prober(config, corpus, self.tokenizer, self.branches, ranks) if config.probe.every else None
        self.checkpoints = Checkpoints(config.run.folder / "checkpoints", config.checkpoint, ranks)
        self.progress = Progress()
        self.grad_norm = math.nan
        self.step_started = 0.0
        self.evaluated: dict[str, float] = {}
        self.checkpoint: Path | None = None

    def make_branches(self) -> Branches:
        """How pairs are laid out."""
        special = self.tokenizer
        return make_branches(
            self.config.packing, self.config.objective, eos=special.eos, bos=special.bos, predictors=special.predictors
        )

    def resume_or_start(self) -> int:
        """Loads the checkpoint that the config asks for; returns the number of steps done. Collective."""
        config, ranks = self.config, self.ranks
        path, skipped = self.checkpoints.newest()
        elsewhere = path is None and config.run.resume not in ("auto", "never")
        if elsewhere:
            path = Path(config.run.resume)
            if problem := self.checkpoints.problem(path):
                raise DiptychError(f"run.resume {path}: {problem}")
        first = 0
        if path is not None:
            state = read_state(path)
            self._check_checkpoint(path, state, elsewhere)
            restore(path, self.engine, state)
            check_canary(self.engine, read_canary(path), state.dtype, ranks.device)
            first, self.checkpoint = state.step, path
            self.progress = Progress(state.label_tokens, state.tokens)
            self.evaluated = dict(state.extra.get("evaluation", {}))
            self.settled = bool(state.extra.get("settled", True))
            self.recall(state.extra)
            self.cursor = Cursor(**state.cursor)
        ranks.agree(lambda: describe_run(config, self.corpus.folder / "tokenizer", first) if ranks.is_main else None)
        ranks.agree(lambda: self.checkpoints.check_room(self.counts.trained))
        self.monitor = ranks.agree(
            lambda: Monitor(
                config.run.folder, config.logging, active=ranks.is_main, first_step=first, num_steps=self.num_steps
            )
        )
        self.watchdog = Watchdog(config.run.folder / "traces", ranks.rank, config.train.hang_minutes)
        self.ledger = self._open_ledger(first) if config.logging.ledger else None
        for line in skipped:
            self.monitor.say(line)
        for line in introduction(self):
            self.monitor.say(line)
        self.schedule.start_from(self.cursor)
        return first

    def recall(self, facts: Mapping[str, Any]) -> None:
        """Takes up what :meth:`facts` stored in the checkpoint that the run goes on from."""

    def batches(self, first: int) -> Iterator[tuple[Step, list[Batch]]]:
        """Steps from ``first`` on with this rank's micro-batches; the next one is built while this one trains."""

        def build(index: int) -> tuple[Step, list[Batch]]:
            step = self.schedule.step(index)
            return step, [self.builder.build(micro_batch) for micro_batch in step.micro_batches]

        with ThreadPoolExecutor(1) as background:
            following = background.submit(build, first) if first < self.num_steps else None
            for index in range(first, self.num_steps):
                self.step_started = time.perf_counter()  # so that waiting for data counts
                assert following is not None
                current = following.result()
                following = background.submit(build, index + 1) if index + 1 < self.num_steps else None
                yield current

    def train_step(self, step: Step, batches: list[Batch]) -> None:
        """One optimizer step. Collective."""
        config, ranks, engine = self.config, self.ranks, self.engine
        self.watchdog.beat(f"step {step.index + 1}", patience=1 if self.progress.warm else 3)
        torch.manual_seed(_seed(config.run.seed, step.index, ranks.rank))
        factor = set_learning_rate(engine, config.optimizer, step.index, self.num_steps)
        totals = Totals()
        for micro_batch, cpu_batch in zip(step.micro_batches, batches, strict=True):
            batch = cpu_batch.to(ranks.device)
            lm_sum, states = engine(batch)
            terms = self.objective(states, lm_sum, batch, step)
            totals += sum_over_ranks(terms, batch, ranks, asked_to_stop=preemption.received is not None)
            if totals.not_finite:
                self._stop("the loss", step, terms, micro_batch, factor)
            # DeepSpeed averages gradients over ranks; the loss is already divided by the counts of the whole step.
            engine.backward(terms.loss * ranks.world_size, scale_wrt_gas=False)
            grad_norm = step_engine(engine)
        assert grad_norm is not None
        if not math.isfinite(grad_norm):
            self._stop("the gradient norm", step, terms, step.micro_batches[-1], factor)
        if self.ledger:
            self.ledger.add(step)
        self.grad_norm = grad_norm
        self.settled = False
        self.asked_to_stop = totals.asked_to_stop > 0
        self.cursor = step.cursor
        self.progress.add(totals, time.perf_counter() - self.step_started)
        done = step.index + 1
        if done == 1 or done % config.logging.every == 0 or done == self.num_steps:
            metrics = self._metrics(step, factor)
            ranks.agree(lambda: self.monitor.log(done, metrics))
        self.monitor.advance()

    def over(self, done: int) -> bool:
        """Whether ``done`` steps are all."""
        return done == self.num_steps or self.enough

    def settle(self, done: int) -> None:
        """Evaluation, probe and checkpoint where they are due after ``done`` steps. Collective."""
        if self.settled:
            return
        config = self.config
        if self.over(done) or done % config.evaluation.every == 0:
            self.watchdog.beat(f"evaluation after step {done}", patience=3)
            self.evaluate(done)
        if self.prober and (self.over(done) or done % config.probe.every == 0):
            self.watchdog.beat(f"probe after step {done}", patience=3)
            self.probe(done)
        self.settled = True
        due = self.over(done) or self.checkpoints.worth_keeping == done or done % config.checkpoint.every == 0
        if done and due:
            self.save(done)
        self.watchdog.beat(f"waiting for the data of step {done + 1}")

    def stop_to_go_on(self, done: int) -> NoReturn:
        """Saves what a later start goes on from. Collective.

        Raises:
            Preempted: Always.
        """
        self.save(done)
        seconds = max(self.ranks.gather(preemption.seconds_since()))
        notice = self.config.checkpoint.notice_seconds
        if seconds > notice:
            self.monitor.say(
                f"warning: {seconds:.0f} s from the signal to the checkpoint, of {notice:.0f} s that there may be "
                "(checkpoint.notice_seconds): ask for the signal earlier, e.g. sbatch --signal=USR1@300"
            )
        raise Preempted(f"asked to stop: step {done} of {self.num_steps} is saved; start the run again to go on")

    def evaluate(self, done: int) -> None:
        """Held-out metrics and sample texts after ``done`` steps. Collective."""
        metrics = self.evaluator.run(self.engine)
        self.evaluated = {"step": done, **metrics}
        texts = self.evaluator.samples(self.engine)

        def write() -> None:
            self.monitor.log(done, metrics)
            self.monitor.samples(done, texts)

        self.ranks.agree(write)

    def probe(self, done: int) -> None:
        """What a linear probe reads from held-out embeddings after ``done`` steps. Collective."""
        if self.prober is None:
            return
        metrics = self.prober.run(self.engine)
        if not metrics:
            self.monitor.say(f"step {done}  probe: left out, embeddings are not finite")
            return
        self.ranks.agree(lambda: self.monitor.log_probe(done, self.progress.label_tokens, metrics))

    def save(self, done: int) -> None:
        """Writes a checkpoint. Collective."""
        self.watchdog.beat(f"checkpoint of step {done}", patience=3)
        state = RunState(
            step=done,
            label_tokens=self.progress.label_tokens,
            tokens=self.progress.tokens,
            optimizer_step=optimizer_step(self.engine),
            identity=identity(self.config),
            data_fingerprint=self.corpus.fingerprint,
            model=self.built.hf_config.to_dict(),
            dtype=str(self.built.dtype).removeprefix("torch."),
            extra=self.facts(),
            cursor=asdict(self.cursor),
        )
        first_view = self.corpus.heldout.views(0)[0]
        ids = [self.tokenizer.bos, *first_view.tokens][:32]
        self.checkpoint = self.checkpoints.save(self.engine, state, canary(self.engine, ids, self.ranks.device))
        self.monitor.flush()

    def finish(self) -> Path:
        """Exports the checkpoint worth keeping, else the last, as a Hugging Face folder. Collective."""
        out = self.config.run.folder / "export"
        kept = self.checkpoints.worth_keeping
        checkpoint = self.checkpoint if kept is None else self.checkpoints.path(kept)
        assert checkpoint is not None  # the last step was saved, by this process or before its resumption

        self.watchdog.beat("export", patience=3)

        def write() -> None:
            if self.ranks.is_main and not out.exists():
                export(checkpoint, self.config.run.folder / "tokenizer", out)

        self.ranks.agree(write)
        self.monitor.say(f"model: {out} (open it with AutoModelForCausalLM.from_pretrained)")
        return out

    def _open_ledger(self, first: int) -> Ledger:
        folder = self.config.run.folder / "ledger"
        attempt = self.ranks.on_main(lambda: next_attempt(folder))
        return self.ranks.agree(lambda: Ledger(folder, attempt, self.ranks.rank, first))

    def _check_checkpoint(self, path: Path, state: RunState, elsewhere: bool) -> None:
        """Refuses a checkpoint of another run; one from elsewhere may differ in optimizer and objective.

        It must not differ in what the packing plan depends on: the step number would then stand for other rows.
        """
        prefixes: tuple[str, ...] = _PLANNED if elsewhere else ("",)
        if elsewhere and not self.config.packing.reserve_branches:
            prefixes += ("objective.predictors", "objective.dropout")
            if (state.identity.get("objective.lambda", 0) > 0) != self.objective.needs_branches:
                prefixes += ("objective.lambda",)
        problems = difference(state.identity, identity(self.config), prefixes)
        if state.data_fingerprint != self.corpus.fingerprint:
            problems.append(f"data fingerprint: {state.data_fingerprint[:12]} -> {self.corpus.fingerprint[:12]}")
        if problems:
            raise DiptychError("\n  ".join([f"{path}: is a checkpoint of another model or other data:", *problems]))
        if state.step > self.num_steps:
            raise DiptychError(f"{path}: is at step {state.step}, this config ends at {self.num_steps}")

    def _metrics(self, step: Step, factor: float) -> dict[str, float]:
        totals, seconds, steps = self.progress.take()
        config = self.config
        metrics = {"train/loss": totals.loss / steps, "train/lm_loss": totals.lm_sum / max(1.0, totals.labels)}
        if self.objective.needs_branches:
            metrics["train/pair_loss"] = totals.pair_sum / max(1.0, totals.pairs)
            metrics["train/lambda"] = self.objective.weight(step.index)
        metrics |= {
            "train/lr": factor * config.optimizer.lr,
            "train/grad_norm": self.grad_norm,
            "train/epoch": step.epoch,
            "train/label_tokens": self.progress.label_tokens,
            "speed/label_tokens_per_second": totals.labels / seconds,
            "speed/tokens_per_second": totals.tokens / seconds,
            "speed/padding_share": 1 - totals.tokens / totals.positions,
            "memory/gib": memory_gib(self.ranks.device),
        }
        peak = peak_flops(config.logging, self.ranks.device, self.built.dtype)
        flops = training_flops(
            self.built.hf_config,
            self.counts,
            tokens=int(totals.tokens),
            labels=int(totals.labels),
            visible=int(totals.visible),
            frozen=bool(config.model.lora.rank),
        )
        if peak and flops:
            metrics["speed/mfu"] = flops / seconds / (peak * self.ranks.world_size)
        return metrics

    def facts(self) -> dict[str, object]:
        """What a checkpoint stores besides, for the model card and for :meth:`recall`."""
        splits = self.corpus.manifest["splits"]
        paths = [Path(span.where).name for span in self.corpus.train.sources]
        return {
            "name": self.config.run.folder.name,
            "parameters": self.counts.total,
            "bos": self.tokenizer.hf.bos_token,
            "evaluation": self.evaluated,
            "settled": self.settled,
            "lora_rows": self.lora_rows,
            "data": [f"sources: {', '.join(paths)}", f"{splits['train']['records']:,} training records of two views"],
        }

    def _stop(self, what: str, step: Step, terms: LossTerms, micro_batch: MicroBatch, factor: float) -> NoReturn:
        stop_not_finite(
            what,
            step=step.index + 1,
            local={"lm loss": float(terms.lm_sum), "pair loss": float(terms.pair_sum)},
            micro_batch=micro_batch,
            learning_rate=factor * self.config.optimizer.lr,
            last_grad_norm=self.grad_norm,
            corpus=self.corpus,
            folder=self.config.run.folder,
            ranks=self.ranks,
        )


def _seed(seed: int, step: int, rank: int) -> int:
    """Seed of a step's model dropout on a rank, so that a resumed run draws what the straight one drew."""
    return int.from_bytes(hashlib.sha256(f"{seed} step {step} rank {rank}".encode()).digest()[:8], "big") >> 1
