"""From a config and its corpus to the schedule of a rank: mixture, order, packing, steps."""

from pretrain.config.sections import Config
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.mixture import resolve
from pretrain.data.order import Order
from pretrain.data.packing import WindowPlanner
from pretrain.data.schedule import Schedule
from pretrain.objectives.mixed import MixedObjective
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError


def make_schedule(
    config: Config, corpus: Corpus, branches: Branches, objective: MixedObjective, ranks: Ranks
) -> Schedule:
    """The training schedule of this rank.

    Raises:
        DiptychError: The mixture cannot be filled, or the corpus does not fill one step.
    """
    mix = resolve(config.data.mixture, corpus.train.sources, config.data.repeat)
    planner = WindowPlanner(
        corpus.train,
        Order(mix, config.run.seed),
        branches,
        config.packing.row_length,
        branched=objective.needs_branches,
        dropout=config.objective.dropout,
        reserve_branches=config.packing.reserve_branches,
    )
    schedule = Schedule(
        planner,
        rows_per_step=config.train.rows_per_step,
        micro_batch_rows=config.train.micro_batch_rows,
        rank=ranks.rank,
        world_size=ranks.world_size,
        group_rows=config.objective.group_rows,
    )
    if schedule.plan(0).num_rows < config.train.rows_per_step and schedule.epoch_of(1) > 1:
        raise DiptychError(
            f"train.rows_per_step: the corpus fills only {schedule.rows_per_epoch()[0]} rows of "
            f"{config.packing.row_length} tokens, a step takes {config.train.rows_per_step}; lower "
            "train.rows_per_step or packing.row_length, or add data"
        )
    return schedule


def mixture_lines(config: Config, corpus: Corpus, epochs: float) -> list[str]:
    """A table of what so many epochs take from each source; empty if there is only one source."""
    if not config.data.mixture and len(corpus.train.sources) == 1:
        return []
    return resolve(config.data.mixture, corpus.train.sources, config.data.repeat).table(epochs)
