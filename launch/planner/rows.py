"""What is known of the rows of a run: figures of a prepared corpus, or stated assumptions."""

from dataclasses import dataclass
from pathlib import Path

import torch

from pretrain.config.sections import Config
from pretrain.data.corpus import read_corpus
from pretrain.data.tokenizer import load
from pretrain.engine.build import longest_position
from pretrain.objectives.mixed import MixedObjective, make_branches
from pretrain.runtime.distributed import Ranks
from pretrain.training.run_schedule import make_schedule


@dataclass(frozen=True)
class RowFigures:
    """Figures of the rows of a corpus.

    Attributes:
        used: Share of positions that hold tokens.
        labelled: Share of those tokens that carry a label.
        view_tokens: Tokens of a view on average.
        longest: Positions that the longest example needs.
        rows_per_epoch: Rows of an epoch, None without a corpus.
        source: Where the figures are from.
    """

    used: float
    labelled: float
    view_tokens: float
    longest: int
    rows_per_epoch: int | None
    source: str


def assumed_rows(config: Config, used: float) -> RowFigures:
    """Figures under the assumption that all views have one length: an eighth of a row, or what the config allows."""
    row, branched = config.packing.row_length, config.objective.lambda_ > 0
    view = row / 8
    if config.data.max_view_tokens is not None:
        view = min(view, config.data.max_view_tokens)
    labelled = 1.0 if config.packing.layout == "independent" else (1 / 3 if branched else 1 / 2)
    return RowFigures(
        used, labelled, view, row, None, f"assumed: {used:.0%} of positions used, views of {view:.0f} tokens"
    )


def measured_rows(config: Config, folder: Path, world: int) -> RowFigures:
    """Figures of a prepared corpus, from its first window.

    Raises:
        DiptychError: The folder holds none, or it does not fill a step.
    """
    corpus = read_corpus(folder)
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    branches = make_branches(
        config.packing, config.objective, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors
    )
    ranks = Ranks(0, world, torch.device("cpu"))
    schedule = make_schedule(config, corpus, branches, MixedObjective(config.objective), ranks)
    plan, sources = schedule.plan(0), corpus.train.sources
    tokens = int(plan.num_tokens.sum())
    return RowFigures(
        used=tokens / (plan.num_rows * config.packing.row_length),
        labelled=int(plan.num_labels.sum()) / tokens,
        view_tokens=sum(span.mean_tokens * span.count for span in sources) / (2 * sum(span.count for span in sources)),
        longest=longest_position(config, corpus, branches),
        rows_per_epoch=schedule.rows_per_epoch()[0],
        source=f"the corpus {folder}",
    )
