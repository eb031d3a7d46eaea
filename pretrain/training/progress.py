"""Sums of losses and counts: of a step, since the last log line, and since the start of the run."""

import operator
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

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
        visible: Pairs of a token and one that it attends to.
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
        return Totals(*map(operator.add, astuple(self), astuple(other)))


class StepSums:
    """Sums of a step, kept on the device so that the host launches all micro-batches without waiting."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._counts: list[tuple[int, ...]] = []

    def add(self, terms: LossTerms, batch: Batch) -> None:
        """Adds a micro-batch of this rank."""
        losses = [terms.loss.detach(), terms.lm_sum, terms.pair_sum, terms.balance_sum]
        self._losses.append(torch.stack(losses).double())
        self._counts.append(
            (terms.num_pairs, len(batch.labels), batch.num_tokens, batch.ids.numel(), batch.num_visible)
        )

    def local_losses(self) -> dict[str, float]:
        """This rank's sums of next-token losses and of distances, for the report on a bad step."""
        lm_sum, pair_sum = torch.stack(self._losses)[:, 1:3].sum(0).tolist()
        return {"lm loss": lm_sum, "pair loss": pair_sum}

    def over_ranks(self, ranks: Ranks, *, asked: bool, saved: bool) -> Totals:
        """Totals of the step. Collective.

        By the same reduction every rank learns that some rank's loss is not finite, that some rank was told to stop, or
        that all ranks have written their part of a checkpoint. It takes one transfer to the host, however many figures
        and micro-batches there are.
        """
        losses = torch.stack(self._losses)
        finite = losses.isfinite().all(dim=1, keepdim=True)
        flags = [(0, 0)] * (len(self._counts) - 1) + [(asked, saved)]
        counts = torch.tensor([one + flag for one, flag in zip(self._counts, flags, strict=True)], dtype=losses.dtype)
        local = torch.cat([(~finite).double(), losses.where(finite, 0.0), counts.to(losses.device)], dim=1)
        figures = ranks.sum(local.flatten())
        width = local.shape[1]
        rows = (figures[start : start + width] for start in range(0, len(figures), width))
        return sum((Totals(*row) for row in rows), Totals())


class RunningTotals:
    """Totals of the run, and of the interval since the last log line with the seconds spent training."""

    def __init__(self, label_tokens: int = 0, tokens: int = 0) -> None:
        self.label_tokens = label_tokens
        self.tokens = tokens
        self.warm = False  # whether a step has been done
        self._start_interval()

    def _start_interval(self) -> None:
        self._interval, self._seconds, self._steps = Totals(), 0.0, 0

    def add(self, totals: Totals, seconds: float) -> None:
        """Adds a step and its duration, the wait for its data included."""
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
