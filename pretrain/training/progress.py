"""What has been done since the last log line, and since the start of the run."""

from dataclasses import astuple, dataclass

import torch

from pretrain.data.batch import Batch
from pretrain.objectives.mixed import LossTerms
from pretrain.runtime.distributed import Ranks


@dataclass(frozen=True)
class Totals:
    """Sums over all ranks and micro-batches.

    Attributes:
        not_finite: Losses that are not finite.
        loss: What was differentiated, of all steps together.
        lm_sum: Next-token losses, nats.
        pair_sum: Distances.
        balance_sum: Load-balancing losses of tokens.
        pairs: Pairs with branches.
        labels: Label tokens.
        tokens: Positions that are not padding.
        positions: Positions, padding included.
        visible: Pairs (token, token it sees).
        asked_to_stop: Ranks that were told to stop.
        saved: Ranks that have written their part of the checkpoint in flight, at the last micro-batch of a step.
    """

    not_finite: float = 0
    loss: float = 0
    lm_sum: float = 0
    pair_sum: float = 0
    balance_sum: float = 0
    pairs: float = 0
    labels: float = 0
    tokens: float = 0
    positions: float = 0
    visible: float = 0
    asked_to_stop: float = 0
    saved: float = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(own + theirs for own, theirs in zip(astuple(self), astuple(other), strict=True)))


def sum_over_ranks(terms: LossTerms, batch: Batch, ranks: Ranks, *, asked: bool, saved: bool) -> Totals:
    """Totals of one micro-batch. Collective.

    Also the point where every rank learns of another's infinite loss, that one was told to stop, and that all have
    written their part of a checkpoint.

    One reduction and one transfer to the host, whatever the number of figures.
    """
    losses = torch.stack([terms.loss.detach(), terms.lm_sum, terms.pair_sum, terms.balance_sum]).double()
    finite = losses.isfinite().all().reshape(1)
    counts = (terms.num_pairs, len(batch.labels), batch.num_tokens, batch.ids.numel(), batch.num_visible, asked, saved)
    local = [(~finite).double(), losses.where(finite, 0.0), torch.tensor(counts, device=losses.device).double()]
    return Totals(*ranks.sum(torch.cat(local)))


class Progress:
    """Totals of the run and of the interval since the last log line, with the time spent training."""

    def __init__(self, label_tokens: int = 0, tokens: int = 0) -> None:
        self.label_tokens = label_tokens
        self.tokens = tokens
        self.warm = False  # whether a step has been done
        self._start_interval()

    def _start_interval(self) -> None:
        self._interval, self._seconds, self._steps = Totals(), 0.0, 0

    def add(self, totals: Totals, seconds: float) -> None:
        """Counts a step and the time it took, waiting for its data included."""
        self.warm = True
        self._seconds += seconds
        self._steps += 1
        self._interval += totals
        self.label_tokens += int(totals.labels)
        self.tokens += int(totals.tokens)

    def take(self) -> tuple[Totals, float, int]:
        """Totals, seconds and steps since the last call."""
        taken = self._interval, self._seconds, self._steps
        self._start_interval()
        return taken
