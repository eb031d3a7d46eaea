"""The mixed objective: gamma * CE(next token) + lambda * D(Pred(Enc(source)), Enc(target))."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pretrain.config.sections import ObjectiveConfig, PackingConfig
from pretrain.data.batch import Batch
from pretrain.data.branches import Branches
from pretrain.data.schedule import Step
from pretrain.objectives import OBJECTIVES
from pretrain.objectives.groups import PairGroups


@dataclass(frozen=True)
class LossTerms:
    """Sums over one micro-batch of one rank.

    Attributes:
        loss: What is differentiated: all terms weighted and divided by the counts of the whole step; a scalar.
        lm_sum: Unweighted sum of the next-token losses, nats.
        pair_sum: Unweighted sum of the distances.
        num_pairs: Pairs with branches.
        balance_sum: Unweighted sum over tokens of the load-balancing loss of a mixture of experts.
    """

    loss: Tensor
    lm_sum: Tensor
    pair_sum: Tensor
    num_pairs: int
    balance_sum: Tensor


class MixedObjective:
    """Turns hidden states of a micro-batch into loss terms.

    All terms are normalised by exact counts of the whole step (all ranks, all micro-batches), known from the packing
    plan: sum of token losses / label tokens, sum of pair distances / pairs, sum of balance losses / tokens. A pair
    whose branches were dropped counts as a pair, so dropout lowers the weight of D by the kept share unless
    ``dropout_rescale`` divides it out.
    """

    def __init__(
        self, config: ObjectiveConfig, rank: int = 0, world_size: int = 1, *, balance_weight: float = 0.0
    ) -> None:
        self.config = config
        self.balance_weight = balance_weight
        self.distance = OBJECTIVES[config.distance].function
        # A group of one row lies on one rank: nothing has to be gathered.
        self.group_world = world_size if config.group_rows > 1 else 1
        self.rank = rank if config.group_rows > 1 else 0

    @property
    def needs_branches(self) -> bool:
        """Whether training lays out branches at all."""
        return self.config.lambda_ > 0

    def weight(self, step: int) -> float:
        """Weight of D in a step (from 0): lambda, warmed up, divided by the kept share if asked."""
        config = self.config
        weight = config.lambda_
        if step < config.lambda_warmup_steps:
            weight *= (step + 1) / config.lambda_warmup_steps
        return weight / (1 - config.dropout) if config.dropout_rescale else weight

    def __call__(
        self, states: Tensor, lm_sum: Tensor, batch: Batch, step: Step, balance: Tensor | None = None
    ) -> LossTerms:
        """Loss terms of a micro-batch. Collective if groups span ranks.

        Args:
            states: Last hidden states, shape [rows * length, width].
            lm_sum: Sum of next-token losses.
            batch: The micro-batch.
            step: The step it belongs to.
            balance: Sum over tokens of the load-balancing loss; None: the model has none.
        """
        loss = self.config.gamma * lm_sum / max(1, step.num_labels)
        pair_sum = lm_sum.new_zeros(())
        if batch.pair_capacity:
            pair_sum = self.distances(states, batch).sum()
            loss = loss + self.weight(step.index) * pair_sum / max(1, step.num_pairs)
        balance = lm_sum.new_zeros(()) if balance is None else balance
        if self.balance_weight:
            loss = loss + self.balance_weight * balance / max(1, step.num_tokens)
        return LossTerms(loss, lm_sum.detach(), pair_sum.detach(), len(batch.groups), balance.detach())

    def distances(self, states: Tensor, batch: Batch) -> Tensor:
        """D of each pair, shape [P]. Collective if groups span ranks."""
        prediction = self.pool(states, batch.prediction_spans)
        target = self.pool(states, batch.target_spans)
        if self.config.stop_gradient:
            target = target.detach()
        groups = PairGroups(batch.groups, self.config.temperature, batch.pair_capacity, self.group_world, self.rank)
        return self.distance(prediction, target, groups)

    def pool(self, states: Tensor, spans: Tensor) -> Tensor:
        """Embeddings of spans in float32, shape [P, width]; spans has shape [P, 2]."""
        if self.config.pooling == "last":
            return states.index_select(0, spans[:, 1] - 1).float()
        lengths = spans[:, 1] - spans[:, 0]
        pair = torch.repeat_interleave(torch.arange(len(spans), device=spans.device), lengths)
        first = torch.cumsum(lengths, 0) - lengths
        inside = torch.arange(len(pair), device=spans.device) - first[pair]
        pooled = states.new_zeros(len(spans), states.shape[1], dtype=torch.float32)
        pooled = pooled.index_add(0, pair, states[spans[pair, 0] + inside].float())
        return pooled / lengths[:, None]


def make_branches(
    packing: PackingConfig, objective: ObjectiveConfig, *, eos: int, bos: int | None, predictors: Sequence[int]
) -> Branches:
    """The layout that a config asks for, given the tokenizer's special ids."""
    count = objective.predictors
    chosen = (predictors[0],) * count if objective.repeat_predictor and count else tuple(predictors[:count])
    return Branches(packing.layout, eos=eos, bos=bos, predictors=chosen, direction=objective.direction)
