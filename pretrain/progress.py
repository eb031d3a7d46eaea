"""What has been done since the last log line, and since the start of the run."""

import time
from dataclasses import dataclass

from pretrain.batch import Batch
from pretrain.distributed import Ranks
from pretrain.objectives.mixed import LossTerms


@dataclass(frozen=True)
class Totals:
    """Sums over all ranks.

    Attributes:
        not_finite: Ranks whose loss is not finite.
        lm_sum: Next-token losses, nats.
        pair_sum: Distances.
        pairs: Pairs with branches.
        labels: Label tokens.
        tokens: Positions that are not padding.
        positions: Positions, padding included.
        visible: Pairs (token, token it sees).
    """

    not_finite: float = 0
    lm_sum: float = 0
    pair_sum: float = 0
    pairs: float = 0
    labels: float = 0
    tokens: float = 0
    positions: float = 0
    visible: float = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(*(own + theirs for own, theirs in zip(self._values(), other._values(), strict=True)))

    def _values(self) -> tuple[float, ...]:
        return (
            self.not_finite,
            self.lm_sum,
            self.pair_sum,
            self.pairs,
            self.labels,
            self.tokens,
            self.positions,
            self.visible,
        )


def sum_over_ranks(terms: LossTerms, batch: Batch, ranks: Ranks) -> Totals:
    """Totals of one micro-batch. Collective; also the point where every rank learns of another's infinite loss."""
    finite = bool(terms.loss.isfinite())
    return Totals(
        *ranks.sum(
            not finite,
            float(terms.lm_sum) if finite else 0.0,
            float(terms.pair_sum) if finite else 0.0,
            terms.num_pairs,
            len(batch.labels),
            batch.num_tokens,
            batch.ids.numel(),
            batch.num_visible,
        )
    )


class Progress:
    """Totals of the run and of the interval since the last log line, with the time spent training."""

    def __init__(self, label_tokens: int = 0, tokens: int = 0) -> None:
        self.label_tokens = label_tokens
        self.tokens = tokens
        self._interval = Totals()
        self._seconds = 0.0

    def add(self, totals: Totals, started: float) -> None:
        """Counts a step that began at ``time.perf_counter()`` value ``started``."""
        self._seconds += time.perf_counter() - started
        self._interval += totals
        self.label_tokens += int(totals.labels)
        self.tokens += int(totals.tokens)

    def take(self) -> tuple[Totals, float]:
        """Totals and seconds since the last call."""
        taken = self._interval, self._seconds
        self._interval, self._seconds = Totals(), 0.0
        return taken
