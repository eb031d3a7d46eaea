"""Fine-tuning: the run of pre-training with a prompt around each pair, and a choice of checkpoint by validation."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np

from finetune.config import FinetuneConfig
from finetune.decoding_step import DecodingStep
from finetune.generate import Generation, check_room, generate
from finetune.prompts import Frame, make_frame
from finetune.recipe import RECIPE_FILE, Recipe
from finetune.tasks import Example, Task
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.engine.evaluating import evaluating
from pretrain.model.loading import context_length
from pretrain.preparation.prepare import roomiest_branches
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.leaving import leave_if_asked
from pretrain.runtime.preemption import preemption
from pretrain.runtime.suggestions import suggestion
from pretrain.sources.files import Files
from pretrain.training.trainer import Run, train

_FRAME_TOKENS = 32
"""Tokens reserved for the separator if the tokenizer is not trained yet."""

_SECONDS_PER_LINE = 30
"""Seconds between two lines of progress."""


def finetune(config: FinetuneConfig, ranks: Ranks) -> Path:
    """Runs a fine-tuning config to its end. Collective.

    Returns:
        The Hugging Face folder of the model that did best on the validation split.
    """
    return train(with_room(config), ranks, partial(FinetuneRun, may_cut=config.data.max_view_tokens is not None))


def with_room(config: FinetuneConfig) -> FinetuneConfig:
    """The config with ``data.max_view_tokens`` set: what a row holds of one view beside the frame of a prompt.

    No text is cut by it: one that is longer cannot be trained on in such rows.
    """
    if config.data.max_view_tokens is not None:
        return config
    if config.tokenizer.path is not None:
        tokenizer = load(config.tokenizer.path, config.tokenizer)
        frame = make_frame(tokenizer, config.task.style, config.task.task())
        lead, join = frame.lead[1:], frame.join
    else:
        lead, join = (), (0,) * _FRAME_TOKENS
    branches = replace(roomiest_branches(config), lead=lead, join=join)
    longest = config.packing.row_length - int(branches.num_tokens(np.array([0, 0]), branched=False))
    if longest < 1:
        raise DiptychError(
            f"packing.row_length: {config.packing.row_length} tokens do not hold the prompt's {len(lead) + len(join)} "
            "tokens and an example; raise it"
        )
    return config.model_copy(update={"data": config.data.model_copy(update={"max_view_tokens": longest})})


def refuse_cut(corpus: Corpus, config: FinetuneConfig) -> None:
    """Refuses cut texts: a cut answer teaches a different answer, and evaluation does not cut prompts."""
    for split, counts in corpus.manifest["splits"].items():
        if cut := counts["first_truncated"] + counts["second_truncated"]:
            raise DiptychError(
                f"packing.row_length: {cut:,} texts of the {split} split are longer than the "
                f"{config.packing.row_length} tokens of a row; raise it, or set data.max_view_tokens to cut them"
            )


def frame_pairs(branches: Branches, frame: Frame) -> Branches:
    """The layout of a prompt and its answer."""
    return replace(branches, eos=frame.stop[0], lead=frame.lead[1:], join=frame.join)


def answered_records(config: FinetuneConfig, corpus: Corpus) -> list[int]:
    """Records of the validation split that are answered at evaluations, spread evenly over it."""
    count = min(config.evaluation.answers, len(corpus.heldout))
    return [number * len(corpus.heldout) // count for number in range(count)]


def read_validation(config: FinetuneConfig, corpus: Corpus, task: Task, records: Sequence[int]) -> list[Example]:
    """The examples of some records of the validation split, from which ``stopping.metric`` can be computed.

    Raises:
        DiptychError: A file cannot be read, or no answer gets that metric.
    """
    examples = validation_examples(config, corpus, task, records)
    check_metric(config.stopping.metric, task, examples)
    return examples


def validation_prompts(
    corpus: Corpus, frame: Frame, records: Sequence[int], context: int | None, max_new_tokens: int
) -> list[list[int]]:
    """Ids of the prompts of some records of the validation split.

    Raises:
        DiptychError: A prompt and its answer do not fit the model's context (in tokens; None: not known).
    """
    prompts = [frame.prompt(list(corpus.heldout.views(number)[0].tokens)) for number in records]
    check_room(context, prompts, max_new_tokens, [corpus.heldout.place(number) for number in records])
    return prompts


def validation_examples(config: FinetuneConfig, corpus: Corpus, task: Task, records: Sequence[int]) -> list[Example]:
    """The examples of some records of the validation split.

    The corpus names files by their paths at preparation; today's files are matched to them by order.
    """
    places = [corpus.heldout.place(record) for record in records]
    wanted, files = set(places), Files()
    found: dict[str, Example] = {}
    sources = (*config.data.sources, *config.data.heldout_sources)
    for prepared, source in zip(corpus.manifest["sources"], sources, strict=True):
        if not prepared["heldout"]["records"]:
            continue
        for name, file in zip(prepared["files"], files.match(source.path), strict=True):
            for example in task.examples(file):
                place = f"{name}:{example.id.rpartition(':')[2]}"
                if place in wanted:
                    found[place] = example
    return [found[place] for place in places]


def check_metric(metric: str, task: Task, examples: Sequence[Example]) -> None:
    """Refuses a ``stopping.metric`` that no answer to these examples gets.

    Raises:
        DiptychError: The task has no such score, or cannot decide it on any of the examples.
    """
    name = metric.removeprefix("task/")
    if name == metric:  # a loss
        return
    known = task.judge(examples[0], examples[0].gold).scores
    if name not in known:
        raise DiptychError(
            f"stopping.metric: no metric {metric!r}; {suggestion(metric, [f'task/{score}' for score in known])}"
        )
    if all(task.judge(example, example.gold).scores.get(name) is None for example in examples):
        raise DiptychError(
            f"stopping.metric: {metric} cannot be decided on any of the {len(examples)} validation examples that are "
            "answered; name another score"
        )


class FinetuneRun(Run):
    """A run whose pairs are prompts and answers.

    Attributes:
        answered: Records of the validation split that are answered at every evaluation.
        examples: Their examples, on rank 0: only rank 0 judges, because a limit may stop a judgement on one rank only.
    """

    def __init__(self, config: FinetuneConfig, corpus: Corpus, ranks: Ranks, *, may_cut: bool = False) -> None:
        self.task = config.task.task()
        if not may_cut:
            refuse_cut(corpus, config)
        self.answered = answered_records(config, corpus)
        # Before the run folder is made, so that a mistake leaves none behind.
        self.examples = ranks.agree(
            lambda: read_validation(config, corpus, self.task, self.answered) if self.answered and ranks.is_main else []
        )
        super().__init__(config, corpus, ranks)
        context = context_length(self.engine.module.lm)
        self.prompts = ranks.agree(
            lambda: validation_prompts(corpus, self.frame, self.answered, context, self.task.max_new_tokens)
        )
        self.best: float | None = None
        self.since_best = 0

    @property
    def settings(self) -> FinetuneConfig:
        """The config, typed with the sections of fine-tuning."""
        return cast(FinetuneConfig, self.config)

    def frame_pairs(self, branches: Branches, tokenizer: Tokenizer) -> Branches:
        """The layout of a prompt and its answer."""
        self.frame = make_frame(tokenizer, self.settings.task.style, self.task)
        return frame_pairs(branches, self.frame)

    def evaluate(self, done: int) -> None:
        """Held-out metrics, answers to validation examples, and whether this is the best checkpoint. Collective."""
        super().evaluate(done)
        stopping = self.settings.stopping
        scores = {name: value for name, value in self.evaluated.items() if name.startswith("task/")}
        if scores:
            self.monitor.say(f"step {done}  " + "  ".join(f"{name} {score:.3f}" for name, score in scores.items()))
        value = self.evaluated.get(stopping.metric, math.nan)  # NaN: no answer could be judged by it
        if not done:
            return
        better = self.best is None or (value < self.best if stopping.lower_is_better else value > self.best)
        if better and math.isfinite(value):
            self.best, self.since_best = value, 0
            self.checkpoints.worth_keeping = done
        else:
            self.since_best += 1
            self.should_stop = bool(stopping.patience) and self.since_best >= stopping.patience
            if self.best is None and self.is_finished(done):
                raise DiptychError(
                    f"stopping.metric: {stopping.metric} was a finite number in none of this run's evaluations, so no "
                    "checkpoint can be chosen by it; look at the losses, or name another metric"
                )
            if self.should_stop:
                self.monitor.say(
                    f"stopped early: {self.since_best} evaluations without a better {stopping.metric} than "
                    f"{self.best:.4f} of step {self.checkpoints.worth_keeping}"
                )

    def heldout_metrics(self, done: int) -> dict[str, float]:
        """Those of pre-training, and the scores of the answers to validation examples. Collective."""
        return super().heldout_metrics(done) | (self._answer(done) if self.answered else {})

    def state_dict(self) -> dict[str, object]:
        """What a checkpoint stores in addition: the task, and the choice of checkpoint so far."""
        task = self.settings.task
        choice = {"best": self.best, "since_best": self.since_best, "step": self.checkpoints.worth_keeping}
        return super().state_dict() | {
            "choice": choice | {"enough": self.should_stop},
            "files": {RECIPE_FILE: Recipe(task.name, task.settings, task.style).text()},
            "stop_tokens": self.frame.stop,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores the choice of checkpoint, unless it is one of another run, which cannot be exported here."""
        choice = state.get("choice", {})
        step = choice.get("step")
        if step is not None and not self.ranks.on_main(lambda: self.checkpoints.path(step).is_dir()):
            choice = {}
        self.best, self.since_best = choice.get("best"), choice.get("since_best", 0)
        self.checkpoints.worth_keeping = choice.get("step")
        self.should_stop = bool(choice.get("enough"))

    def _answer(self, done: int) -> dict[str, float]:
        """Mean scores of greedy answers to validation examples after ``done`` steps. Collective.

        Answers before the first step decide nothing and may take minutes. Unless they are asked for, only a few tokens
        of one answer are generated, as a check that the model can generate at all.
        """
        config = self.settings.evaluation
        is_trial = not done and not config.answers_before_training
        prompts = self.prompts[:1] if is_trial else self.prompts
        total = len(prompts)
        if not is_trial:
            self.monitor.say(f"step {done}  answers {total:,} validation examples")
        last_said = time.monotonic()

        def progress(count: int) -> None:
            nonlocal last_said
            self.watchdog.beat(f"answers after step {done}: {count} of {total}", patience=3)
            if count < total and time.monotonic() - last_said > _SECONDS_PER_LINE:
                last_said = time.monotonic()
                self.monitor.say(f"step {done}  answered {count:,} of {total:,}")

        # Under ZeRO-3 every forward pass is a collective: all ranks answer the same prompts and stop at one token.
        together = self.config.deepspeed.zero_stage == 3
        lm = self.engine.module.lm
        with evaluating(self.engine, plain=True):
            if note := DecodingStep(lm, prompts, self.tokenizer.pad).note:
                self.monitor.say(f"note: answers: {note}")
            answers = generate(
                lm,
                prompts,
                stop=self.frame.stop,
                pad=self.tokenizer.pad,
                max_new_tokens=min(2, self.task.max_new_tokens) if is_trial else self.task.max_new_tokens,
                batch_size=config.batch_size,
                ranks=None if together else self.ranks,
                progress=progress,
                before_pass=partial(leave_if_asked, self.ranks) if together else preemption.check,
            )
        return {} if is_trial else self.ranks.on_main(lambda: self._judge(answers))

    def _judge(self, answers: Sequence[Generation]) -> dict[str, float]:
        """Mean scores of the answers to ``examples``."""
        verdicts = []
        for example, answer in zip(self.examples, answers, strict=True):
            preemption.check()
            verdicts.append(self.task.judge(example, self.tokenizer.decode(answer.ids)))
        names = dict.fromkeys(name for verdict in verdicts for name in verdict.scores)
        decided = {
            name: [score for verdict in verdicts if (score := verdict.scores[name]) is not None] for name in names
        }
        return {f"task/{name}": fmean(scores) for name, scores in decided.items() if scores}
