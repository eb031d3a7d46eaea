"""Which share of the training tokens each source gives, stage by stage.

An epoch of a run is one pass over the mixture: its stages in order. Without a mixture it is every record once.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pretrain.config.data import MixtureStage
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion


class MixtureSource(Protocol):
    """What a mixture needs to know of a source; :class:`pretrain.data.corpus.SourceSpan` is one."""

    @property
    def name(self) -> str:
        """Name in the config."""

    @property
    def first(self) -> int:
        """Number of its first record."""

    @property
    def count(self) -> int:
        """Number of its records."""

    @property
    def mean_tokens(self) -> float:
        """View tokens of a record's pair on average."""


@dataclass(frozen=True)
class Mix:
    """A mixture in records.

    Attributes:
        sources: All sources of the split.
        counts: For each stage the records it takes of each source.
    """

    sources: tuple[MixtureSource, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def num_records(self) -> int:
        """Records of one pass over the mixture."""
        return sum(map(sum, self.counts))

    def epochs(self, passes: float = 1.0) -> list[float]:
        """How often each source is gone through in so many passes over the mixture; shape [sources]."""
        whole = int(passes)
        left = (passes - whole) * self.num_records
        taken = [0.0] * len(self.sources)
        for counts in self.counts:
            share = min(1.0, left / sum(counts))
            left = max(0.0, left - sum(counts))
            taken = [total + (whole + share) * count for total, count in zip(taken, counts, strict=True)]
        return [total / source.count for total, source in zip(taken, self.sources, strict=True)]

    def table(self, passes: float = 1.0) -> list[str]:
        """Lines that tell what each stage takes of each source, and what a run of so many passes takes of it."""
        width = max(len(source.name) for source in self.sources)
        lines = [f"{'mixture':<{width + 2}}  {'records':>14}  {'tokens':>16}   share  epochs of the source"]
        for number, counts in enumerate(self.counts):
            tokens = [count * source.mean_tokens for count, source in zip(counts, self.sources, strict=True)]
            total = math.fsum(tokens)
            if len(self.counts) > 1:
                lines.append(f"stage {number}")
            lines += [
                f"  {source.name:<{width}}  {count:>14,}  {part:>16,.0f}  {part / total:>6.1%}  "
                f"{count / source.count:.2f}"
                for source, count, part in zip(self.sources, counts, tokens, strict=True)
                if count
            ]
        used = [(source.name, part) for source, part in zip(self.sources, self.epochs(passes), strict=True)]
        if passes != 1.0 or len(self.counts) > 1:
            told = ", ".join(f"{part:.2f} epochs of {name}" for name, part in used if part)
            lines.append(f"the run of {passes:.2f} passes takes {told}")
        left_out = [source.name for source, *counts in zip(self.sources, *self.counts, strict=True) if not any(counts)]
        if left_out:
            lines.append(f"left out: {', '.join(left_out)}")
        return lines


def resolve(stages: Sequence[MixtureStage], sources: Sequence[MixtureSource], repeat: bool) -> Mix:
    """Turns shares of tokens into numbers of records.

    Args:
        stages: ``data.mixture``; none: one stage of every record once.
        sources: Spans of the training split.
        repeat: Whether one pass may take records of a source more than once.

    Raises:
        DiptychError: A name is no source's, or a source has too few records.
    """
    if not stages:
        return Mix(tuple(sources), (tuple(source.count for source in sources),))
    names = [source.name for source in sources]
    for number, stage in enumerate(stages):
        key = f"data.mixture.{number}.{'weights' if stage.weights else 'budgets'}"
        for name in (*stage.weights, *stage.budgets):
            if name not in names:
                raise DiptychError(f"{key}: no source named {name!r} has training records; {suggestion(name, names)}")
    exact = [[stage.tokens_of(source.name) / source.mean_tokens for source in sources] for stage in stages]
    counts = tuple(tuple(max(1, round(records)) if records else 0 for records in stage) for stage in exact)
    if not repeat:
        _check_room(stages, sources, exact, counts)
    return Mix(tuple(sources), counts)


def _check_room(
    stages: Sequence[MixtureStage],
    sources: Sequence[MixtureSource],
    exact: list[list[float]],
    counts: tuple[tuple[int, ...], ...],
) -> None:
    """Refuses a mixture that takes more records of a source than it has."""
    asked = [sum(column) for column in zip(*counts, strict=True)]
    short = [index for index, source in enumerate(sources) if asked[index] > source.count]
    if not short:
        return
    told = ", ".join(
        f"{asked[index]:,} records of {sources[index].name}, {asked[index] / sources[index].count:.2f} epochs of its "
        f"{sources[index].count:,}"
        for index in short
    )
    fill = min(
        _fill(source.count, [stage[index] for stage in exact if stage[index]]) for index, source in enumerate(sources)
    )
    tokens = math.fsum(stage.tokens_of(source.name) for stage in stages for source in sources)
    where = "data.mixture.0" if len(stages) == 1 else "data.mixture"
    each = ", all stages alike" if len(stages) > 1 else ""
    raise DiptychError(
        f"{where}: one pass takes {told}; without repetition this mix fills at most {int(fill * tokens):,} of "
        f"{round(tokens):,} tokens: lower {'budgets' if stages[0].budgets else 'tokens'} to {fill:.1%}{each}, change "
        "the shares, or allow repetition with data.repeat=true"
    )


def _fill(count: int, exact: Sequence[float]) -> float:
    """How much of what stages ask of a source it can give, as a share.

    Args:
        count: Records of the source.
        exact: Records that each stage asks for, before they are rounded; a stage takes one at least.
    """
    asked = math.fsum(exact)
    if not asked:
        return math.inf
    # Rounding may add half a record a stage, so that much is left of each source.
    fill = max(0.0, count - (len(exact) / 2 if len(exact) > 1 else 0)) / asked
    if fill >= 1 and sum(max(1, round(records)) for records in exact) > count:
        return max(0.0, count - len(exact)) / asked  # some stages ask for less than the one record that they take
    return fill
