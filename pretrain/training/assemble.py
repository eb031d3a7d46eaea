"""The parts of a run, made once from its config and its corpus: for training, fine-tuning, dry runs and plans."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pretrain.config.checks import contradictions, refuse
from pretrain.config.sections import Config
from pretrain.data.batch import BatchBuilder
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.schedule import Schedule
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.engine.build import build_engine, compute_dtype, longest_position, model_config
from pretrain.engine.checks import check_with_libraries
from pretrain.model.balance_loss import balance_weight
from pretrain.model.build import ParameterCounts, count_parameters
from pretrain.model.lora import special_rows
from pretrain.objectives.mixed import MixedObjective, make_branches
from pretrain.runtime.distributed import Ranks
from pretrain.training.run_schedule import make_schedule


@dataclass(frozen=True)
class Parts:
    """What a run computes with, before any weight is made.

    Attributes:
        config: The run's settings.
        corpus: What it trains on.
        ranks: All ranks.
        tokenizer: The corpus's.
        branches: How pairs are laid out.
        objective: The loss.
        schedule: Which rows this rank computes in which step.
        builder: Makes batches of them.
        hf_config: The Hugging Face config of the model.
        dtype: Of the computation; master weights are float32.
        lora_rows: Tokens whose rows LoRA trains; empty without LoRA.
        counts: Numbers of parameters.
        num_steps: Optimizer steps of the run.
        rows_per_epoch: Rows of one pass over the mixture.
        rows_counted: Whether ``rows_per_epoch`` was counted; else it is an estimate.
    """

    config: Config
    corpus: Corpus
    ranks: Ranks
    tokenizer: Tokenizer
    branches: Branches
    objective: MixedObjective
    schedule: Schedule
    builder: BatchBuilder
    hf_config: Any
    dtype: torch.dtype
    lora_rows: tuple[int, ...]
    counts: ParameterCounts
    num_steps: int
    rows_per_epoch: int
    rows_counted: bool

    @property
    def epochs(self) -> float:
        """Passes over the mixture that the run makes."""
        return self.num_steps * self.config.train.rows_per_step / self.rows_per_epoch

    def build_engine(self) -> Any:
        """The DeepSpeed engine: the model with its optimizer. Collective."""
        return build_engine(self.config, self.hf_config, self.schedule, self.ranks, self.lora_rows)


def assemble(
    config: Config,
    corpus: Corpus,
    ranks: Ranks,
    frame: Callable[[Branches, Tokenizer], Branches] = lambda branches, _: branches,
) -> Parts:
    """Makes the parts of a run.

    Args:
        config: The run's settings; checked here as well, because they may have been made in code.
        corpus: From ``read_corpus``.
        ranks: All ranks.
        frame: Puts what a stage adds around the views of a pair.

    Raises:
        DiptychError: The config contradicts itself, asks for a model that cannot be trained, or does not fit the
            corpus.
    """
    refuse(list(contradictions(config)), None)
    check_with_libraries(config)
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    plain = make_branches(
        config.packing, config.objective, eos=tokenizer.eos, bos=tokenizer.bos, predictors=tokenizer.predictors
    )
    branches = frame(plain, tokenizer)
    hf_config = model_config(config, tokenizer, longest_position(config, corpus, branches))
    objective = MixedObjective(config.objective, ranks.rank, ranks.world_size, balance_weight=balance_weight(hf_config))
    schedule = make_schedule(config, corpus, branches, objective, ranks)
    rows_per_epoch, rows_counted = schedule.rows_per_epoch()
    lora_rows = tuple(special_rows(tokenizer, branches.eos)) if config.model.lora.rank else ()
    return Parts(
        config=config,
        corpus=corpus,
        ranks=ranks,
        tokenizer=tokenizer,
        branches=branches,
        objective=objective,
        schedule=schedule,
        builder=BatchBuilder(corpus.train, branches, config.packing.row_length, tokenizer.pad),
        hf_config=hf_config,
        dtype=compute_dtype(config, ranks.device),
        lora_rows=lora_rows,
        counts=count_parameters(hf_config, config.model.lora, lora_rows),
        num_steps=config.train.steps or schedule.num_steps(config.train.epochs or 1.0),
        rows_per_epoch=rows_per_epoch,
        rows_counted=rows_counted,
    )
