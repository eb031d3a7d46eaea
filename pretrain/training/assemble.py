"""The parts of a run, made once from config and corpus, for training, fine-tuning and dry runs."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint.checkpoints import RunState
from pretrain.config.checks import contradictions, refuse
from pretrain.config.loading import identity
from pretrain.config.sections import Config
from pretrain.data.batch import BatchBuilder
from pretrain.data.branches import Branches
from pretrain.data.corpus import Corpus
from pretrain.data.schedule import Cursor, Schedule
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.engine.build import build_engine, compute_dtype, longest_position, model_config
from pretrain.engine.checks import check_with_libraries
from pretrain.model.balance_loss import balance_weight
from pretrain.model.build import ParameterCounts, count_parameters
from pretrain.model.lora import special_rows
from pretrain.objectives.mixed import MixedObjective, make_branches
from pretrain.runtime.distributed import Ranks
from pretrain.training.progress import RunningTotals
from pretrain.training.run_schedule import make_schedule


@dataclass(frozen=True)
class Parts:
    """What a run needs before any weight is made.

    Attributes:
        config: The run's settings.
        corpus: The prepared corpus.
        ranks: All ranks.
        tokenizer: Tokenizer of the corpus.
        branches: How pairs are laid out.
        objective: The loss.
        schedule: Which rows this rank computes in which step.
        builder: Makes batches of these rows.
        hf_config: The Hugging Face config of the model.
        dtype: Of the computation; master weights are float32.
        lora_rows: Tokens whose rows LoRA trains; empty without LoRA.
        counts: Numbers of parameters.
        num_steps: Optimizer steps of the run.
        rows_per_epoch: Rows of one pass over the mixture.
        rows_counted: Whether ``rows_per_epoch`` is exact; else it is an estimate.
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

    def run_state(
        self, step: int, optimizer_step: int, cursor: Cursor, progress: RunningTotals, extra: Mapping[str, object]
    ) -> RunState:
        """What a checkpoint stores besides tensors.

        Args:
            step: Optimizer steps done.
            optimizer_step: The optimizer's own counter.
            cursor: Of the next step.
            progress: Counts since the start of the run.
            extra: What the run adds.
        """
        paths = [Path(span.where).name for span in self.corpus.train.sources]
        records = self.corpus.manifest["splits"]["train"]["records"]
        card = {
            "name": self.config.run.folder.name,
            "parameters": self.counts.total,
            "bos": self.tokenizer.hf.bos_token,
            "lora_rows": self.lora_rows,
            "data": [f"sources: {', '.join(paths)}", f"{records:,} training records of two views"],
        }
        return RunState(
            step=step,
            label_tokens=progress.label_tokens,
            tokens=progress.tokens,
            optimizer_step=optimizer_step,
            identity=identity(self.config),
            data_fingerprint=self.corpus.fingerprint,
            model=self.hf_config.to_dict(),
            dtype=str(self.dtype).removeprefix("torch."),
            extra=card | dict(extra),
            cursor=asdict(cursor),
        )

    def canary_ids(self) -> list[int]:
        """The text that a checkpoint is tested with: the start of the first held-out view."""
        return [self.tokenizer.bos, *self.corpus.heldout.views(0)[0].tokens][:32]


def assemble(
    config: Config,
    corpus: Corpus,
    ranks: Ranks,
    frame: Callable[[Branches, Tokenizer], Branches] = lambda branches, _: branches,
) -> Parts:
    """Makes the parts of a run.

    Args:
        config: The run's settings; checked here too, because a config may be made in code.
        corpus: From ``read_corpus``.
        ranks: All ranks.
        frame: Adds the stage's prompt around the views of a pair.

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
