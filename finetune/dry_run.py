"""``--dry-run`` of fine-tuning: that of pre-training, and the prompts. Writes nothing."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from finetune.config import FinetuneConfig
from finetune.prompts import make_frame
from finetune.training import (
    answered_records,
    frame_pairs,
    read_validation,
    refuse_cut,
    validation_prompts,
    with_room,
)
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.tokenizer import Tokenizer
from pretrain.model.loading import context_of
from pretrain.runtime.distributed import Ranks
from pretrain.tools.dry_run import dry_run as dry_run_of_any


def dry_run(config: FinetuneConfig, ranks: Ranks) -> None:
    """Describes the run and runs one mock step. Collective; leaves no files behind.

    Raises:
        DiptychError: What a run would refuse before its first step.
    """
    may_cut, task = config.data.max_view_tokens is not None, config.task.task()
    config = with_room(config)

    def frame(branches: Branches, tokenizer: Tokenizer) -> Branches:
        return frame_pairs(branches, make_frame(tokenizer, config.task.style, task))

    def look(corpus: Corpus, tokenizer: Tokenizer, hf_config: Any) -> Iterator[str]:
        if not may_cut:
            refuse_cut(corpus, config)
        around = make_frame(tokenizer, config.task.style, task)
        text, answer = ([int(token) for token in view.tokens] for view in corpus.train.views(0))
        decode = tokenizer.hf.decode
        yield f"task                  {task.task}, style {config.task.style}, stop {_listed(decode, around.stop)}"
        yield f"first prompt          {decode(around.prompt(text))!r}"
        yield f"first answer          {decode([*answer, around.stop[0]])!r}"
        lengths = corpus.train.pairs(np.arange(len(corpus.train))).lengths
        added = len(around.lead) + len(around.join)
        for name, found in (("prompts", lengths[:, 0] + added), ("answers", lengths[:, 1] + 1)):
            yield f"tokens of {name:<12}{found.min():,} to {found.max():,}, {found.mean():.1f} on average"
        answered = answered_records(config, corpus)
        if answered:
            read_validation(config, corpus, task, answered)
            validation_prompts(corpus, around, answered, context_of(hf_config), task.max_new_tokens)
        generated = f"{len(answered):,} validation examples answered every {config.evaluation.every:,} steps"
        first = ", and before the first" if config.evaluation.answers_before_training else ""
        yield f"checkpoint            best {config.stopping.metric}" + (f"; {generated}{first}" if answered else "")

    dry_run_of_any(config, ranks, frame, look)


def _listed(decode: Any, ids: tuple[int, ...]) -> str:
    return " ".join(repr(decode([number])) for number in ids)
