"""Held-out evaluation: language-model loss, objective, representation health and sample texts.

Branches are always laid out here, also for a run with lambda = 0. They do not change the language-model loss, and both
arms of a comparison get the same health figures.
"""

import math
from typing import Any

import torch
from torch import Tensor

from pretrain.config.sections import Config
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.heldout import heldout_rows
from pretrain.data.order import sample
from pretrain.data.packing import OneWindow
from pretrain.data.schedule import Schedule
from pretrain.data.tokenizer import Tokenizer
from pretrain.engine.evaluating import evaluating
from pretrain.model.balance_loss import balance_weight
from pretrain.model.initialization import has_own_code
from pretrain.model.sizes import context_length
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.leaving import leave_if_asked
from pretrain.runtime.preemption import preemption
from pretrain.training.health import health


def _asked_to_stop(ids: Tensor, scores: Any, **more: Any) -> Tensor:
    """Ends a sample early on a rank that was told to stop; the other ranks finish theirs, and then all leave."""
    return torch.full((len(ids),), preemption.received is not None, device=ids.device)


class Evaluator:
    """Evaluates the engine on a fixed set of held-out rows."""

    def __init__(self, config: Config, corpus: Corpus, tokenizer: Tokenizer, branches: Branches, ranks: Ranks) -> None:
        self.config = config
        self.corpus = corpus
        self.tokenizer = tokenizer
        self.ranks = ranks
        # Records, packing and health pairs are drawn without the run's seed: arms are compared on the same texts.
        drawn = sample(0, "evaluation", len(corpus.heldout), config.evaluation.max_records)
        pairs = corpus.heldout.pairs(drawn)
        self.builder, plan = heldout_rows(config, corpus.heldout, drawn, branches, tokenizer.pad, "evaluation")
        self.order = {int(example): position for position, example in enumerate(drawn)}
        # A group must be computed at once, so a micro-batch takes a multiple of its rows.
        unit = config.objective.group_rows // math.gcd(config.objective.group_rows, ranks.world_size)
        # One "step" of the schedule is the whole evaluation, so ranks share its rows as they share a training step's.
        self.schedule = Schedule(
            OneWindow(plan),
            rows_per_step=plan.num_rows,
            micro_batch_rows=math.ceil(config.train.micro_batch_rows / unit) * unit,
            rank=ranks.rank,
            world_size=ranks.world_size,
            group_rows=config.objective.group_rows,
        )
        self.objective = MixedObjective(config.objective, ranks.rank, ranks.world_size)
        # Bytes of the views that have labels.
        labelled = slice(1, 2) if config.packing.layout == "conditional" else slice(0, 2)
        self.num_bytes = max(1, int(pairs.num_bytes[:, labelled].sum()))

    def run(self, engine: Any) -> dict[str, float]:
        """Metrics by name. Collective.

        Raises:
            Preempted: Some rank was told to stop.
        """
        step = self.schedule.step(0)
        lm_sum = pair_sum = 0.0
        num_pairs = 0
        embeddings: list[tuple[Tensor, ...]] = []
        with evaluating(engine):
            for micro_batch in step.micro_batches:
                leave_if_asked(self.ranks)
                batch = self.builder.build(micro_batch).to(self.ranks.device)
                lm_part, states, _ = engine(batch)
                lm_sum += float(lm_part)
                num_pairs += len(batch.groups)
                pair_sum += float(self.objective.distances(states, batch).sum()) if batch.pair_capacity else 0.0
                if len(batch.groups):
                    spans = (batch.source_spans, batch.target_spans, batch.prediction_spans)
                    rows = [row for row in micro_batch.rows if row]
                    positions = [self.order[example] for row in rows for example in row.examples.tolist()]
                    embeddings.append(
                        (torch.tensor(positions), *(self.objective.pool(states, span).cpu() for span in spans))
                    )
        sums = torch.tensor([lm_sum, pair_sum, num_pairs], dtype=torch.float64, device=self.ranks.device)
        lm_sum, pair_sum, pairs = self.ranks.sum(sums)
        metrics = {
            "eval/lm_loss": lm_sum / step.num_labels,
            "eval/bits_per_byte": lm_sum / math.log(2) / self.num_bytes,
            "eval/pair_loss": pair_sum / max(1.0, pairs),
        }
        return metrics | {f"health/{name}": value for name, value in self._health(embeddings).items()}

    def samples(self, engine: Any) -> list[tuple[str, str]]:
        """Held-out prompts and their greedy continuations. Collective: every rank generates the same.

        Raises:
            Preempted: Some rank was told to stop.
        """
        config = self.config.evaluation
        conditional = self.config.packing.layout == "conditional"
        texts = []
        lm = engine.module.lm
        limit = context_length(lm.config) or math.inf
        with evaluating(engine, plain=True):
            for index in range(min(config.prompts, len(self.corpus.heldout))):
                tokens = list(self.corpus.heldout.views(index)[0].tokens)
                prompt = [self.tokenizer.bos, *(tokens if conditional else tokens[: config.prompt_tokens])]
                ids = torch.tensor([prompt], device=self.ranks.device)
                output = lm.generate(
                    ids,
                    attention_mask=torch.ones_like(ids),
                    do_sample=False,
                    max_new_tokens=max(1, min(config.new_tokens, limit - len(prompt))),
                    # A model's own code may not know the cache class of the installed transformers.
                    use_cache=not has_own_code(lm.config),
                    # Under ZeRO-3 each token is a collective: no rank may stop before the others.
                    synced_gpus=self.ranks.world_size > 1 and self.config.deepspeed.zero_stage == 3,
                    eos_token_id=self.tokenizer.eos,
                    pad_token_id=self.tokenizer.pad,
                    stopping_criteria=[_asked_to_stop],
                    # transformers cannot compute a load-balancing loss from the mask of cached tokens.
                    **({"output_router_logits": False} if balance_weight(lm.config) else {}),
                )
                leave_if_asked(self.ranks)
                texts.append((self.tokenizer.decode(prompt), self.tokenizer.decode(output[0, len(prompt) :].tolist())))
        return texts

    def _health(self, embeddings: list[tuple[Tensor, ...]]) -> dict[str, float]:
        """Health figures of the first pairs drawn, which do not depend on ranks, seed or layout."""
        local = tuple(torch.cat(parts) for parts in zip(*embeddings, strict=True)) if embeddings else None
        gathered = [part for part in self.ranks.gather(local) if part is not None]
        positions, *spaces = (torch.cat(parts) for parts in zip(*gathered, strict=True))
        first = torch.argsort(positions)[: self.config.evaluation.health_pairs]
        source, target, prediction = (space[first] for space in spaces)
        return health(source, target, prediction if self.config.objective.predictors else None)
