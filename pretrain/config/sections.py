"""The settings of a run: one typed, frozen tree. Reading it from YAML and overrides is in ``loading.py``.

Sections whose settings belong to one module (tokenizer, model, each source) are defined there and only joined here.
A field marked with ``FREE`` may change between a run and its resumption; every other field identifies the run.
"""

from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from pretrain.config.data import DataConfig
from pretrain.config.model import ModelConfig, TokenizerConfig
from pretrain.config.section import FREE, Section
from pretrain.runtime.suggestions import suggestion


class RunConfig(Section):
    """Where the run lives and what makes it repeatable."""

    folder: Path = Field(
        Path("runs/demo"),
        description="Run folder: config, metrics, checkpoints, export.",
        json_schema_extra=FREE,
    )
    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of initial weights, data order, loss dropout and model dropout."
    )
    resume: str = Field(
        "auto",
        description="auto: newest whole checkpoint of the run folder, else start. never: refuse a folder that holds "
        "a run. Or the path of one checkpoint: of this run, to go back to it, or of another, to start from it.",
        json_schema_extra=FREE,
    )


class PackingConfig(Section):
    """How pairs become rows (docs/branches.md)."""

    layout: Literal["conditional", "independent"] = Field(
        "independent",
        description="conditional: LM loss on the second view given the first. independent: LM loss on each alone.",
    )
    row_length: int = Field(256, ge=8, description="Tokens in a row; whole examples only.")
    reserve_branches: bool = Field(
        False,
        description="Pack as if every pair had its branches, also with lambda 0 or dropout: both arms of a comparison "
        "then see the same examples in every step, at the cost of padding.",
    )


DistanceName = Literal["cosine", "l2", "normalized_l2", "mse", "infonce"]
"""What :data:`pretrain.objectives.OBJECTIVES` has a function for."""

COUPLING_DISTANCES: tuple[DistanceName, ...] = ("infonce",)
"""Distances with which the value of a pair depends on the other pairs of its group."""


class ObjectiveConfig(Section):
    """L = gamma * CE(next token) + lambda * D(Pred(Enc(source)), Enc(target)), arXiv 2509.14252."""

    gamma: float = Field(1.0, ge=0, description="Weight of the next-token loss.")
    lambda_: float = Field(
        1.0,
        ge=0,
        alias="lambda",
        description="Weight of the embedding-prediction loss; 0: no branch is laid out, a plain language model.",
    )
    lambda_warmup_steps: int = Field(0, ge=0, description="Steps over which lambda rises linearly from 0.")
    distance: DistanceName = Field(
        "cosine", description=f"D: {', '.join(get_args(DistanceName))} (pretrain/objectives/)."
    )
    temperature: float = Field(0.07, gt=0, description="Temperature of infonce.")
    group_rows: int = Field(
        1, ge=1, description="infonce: consecutive rows of a step whose pairs are each other's negatives (any rank)."
    )
    predictors: int = Field(1, ge=0, description="k: [PRED] tokens appended to the source view; 0: identity.")
    repeat_predictor: bool = Field(False, description="Use the first [PRED] token k times instead of k distinct ones.")
    direction: Literal["forward", "reverse"] = Field(
        "forward", description="forward: the first view predicts the second. reverse: the second predicts the first."
    )
    stop_gradient: bool = Field(False, description="Do not let the distance move the target embedding.")
    pooling: Literal["last", "mean"] = Field(
        "last",
        description="Embedding of a view: state of its last token, or mean over its tokens (prediction: the same "
        "over the [PRED] tokens).",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Share of pairs (per example and epoch) without branches.")
    dropout_rescale: bool = Field(False, description="Divide lambda by the kept share 1 - dropout.")

    @field_validator("distance", mode="before")
    @classmethod
    def _known_distance(cls, distance: object) -> object:
        known = get_args(DistanceName)
        if distance not in known:
            raise ValueError(f"unknown distance; {suggestion(str(distance), known)}")
        return distance


class TrainConfig(Section):
    """Length of the run and size of a step."""

    steps: int | None = Field(None, ge=1, description="Optimizer steps; null: as many as epochs take.")
    epochs: float | None = Field(None, gt=0, description="Passes over the corpus; null, like steps: one.")
    rows_per_step: int = Field(16, ge=1, description="Rows of one optimizer step over all ranks and accumulation.")
    micro_batch_rows: int = Field(
        4, ge=1, description="Rows of one forward pass on one rank; accumulation follows.", json_schema_extra=FREE
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="auto: bfloat16 with float32 master weights on CUDA, float32 on the CPU."
    )
    loss_chunk_tokens: int = Field(
        4096,
        ge=1,
        description="Label tokens per call of the LM head; bounds the memory of logits.",
        json_schema_extra=FREE,
    )
    timeout_minutes: int = Field(
        60, ge=1, description="How long a rank waits for the others in a collective.", json_schema_extra=FREE
    )
    hang_minutes: float = Field(
        30,
        ge=0,
        description="A step that takes longer (a first step, evaluation or save: three times as long) ends every rank "
        "with its stack traces in RUN/traces; 0: never.",
        json_schema_extra=FREE,
    )
    on_bad_step: Literal["stop", "skip", "rollback"] = Field(
        "stop",
        description="A step whose loss or gradient is not finite, or spikes: stop the run, leave the step out, or go "
        "back to the last checkpoint and leave it out from there.",
        json_schema_extra=FREE,
    )
    spike_factor: float = Field(
        0,
        ge=0,
        description="A loss so many times the median of the last 100 steps is a spike; 0: none is.",
        json_schema_extra=FREE,
    )
    max_bad_steps: int = Field(
        10, ge=0, description="More steps than these are not left out: the run stops.", json_schema_extra=FREE
    )
    compare_ranks_every: int = Field(
        1000,
        ge=0,
        description="Steps between comparisons of what all ranks should hold alike; 0: never.",
        json_schema_extra=FREE,
    )

    @model_validator(mode="after")
    def _one_length(self) -> "TrainConfig":
        if self.steps is not None and self.epochs is not None:
            raise ValueError("give steps or epochs, not both")
        return self


class OptimizerConfig(Section):
    """Optimizer and learning-rate schedule."""

    name: Literal["adamw", "muon"] = Field("adamw", description="muon: hidden matrices by Muon, the rest by AdamW.")
    lr: float = Field(1e-3, gt=0, description="Peak learning rate.")
    muon_lr: float = Field(0.02, gt=0, description="Peak learning rate of the matrices that Muon trains.")
    betas: tuple[float, float] = Field((0.9, 0.95), description="AdamW's decay rates of the two moments.")
    eps: float = Field(1e-8, gt=0, description="AdamW's epsilon.")
    weight_decay: float = Field(0.1, ge=0, description="Decoupled weight decay of matrices (not of norms, biases).")
    clip: float = Field(1.0, ge=0, description="Global gradient-norm limit; 0: off.")
    schedule: Literal["cosine", "wsd"] = Field(
        "cosine", description="After the warm-up: cosine to the end, or stable and a linear decay at the end (WSD)."
    )
    warmup_steps: int = Field(20, ge=0, description="Steps of linear warm-up from 0; the last of them has the peak.")
    decay_fraction: float = Field(
        0.2, gt=0, le=1, description="wsd: share of all steps in the final decay, at most what follows the warm-up."
    )
    min_lr_ratio: float = Field(0.1, ge=0, le=1, description="Learning rate of the last step over its peak.")


class DeepSpeedConfig(Section):
    """The part of DeepSpeed's configuration that is ours to choose; the rest is generated."""

    zero_stage: Literal[0, 1, 2, 3] = Field(3, description="ZeRO stage.", json_schema_extra=FREE)
    offload_optimizer: bool = Field(False, description="Keep optimizer state in host memory.", json_schema_extra=FREE)
    offload_parameters: bool = Field(
        False, description="Keep parameters in host memory (stage 3).", json_schema_extra=FREE
    )
    extra: dict[str, Any] = Field(
        default_factory=dict,
        description="Further DeepSpeed keys, checked; keys that Diptych generates are refused.",
        json_schema_extra=FREE,
    )


class CheckpointConfig(Section):
    """When to save and what to keep."""

    every: int = Field(500, ge=1, description="Steps between checkpoints; the last step is always saved.")
    keep_last: int = Field(2, ge=1, description="Newest checkpoints kept.")
    keep_every: int = Field(0, ge=0, description="Also keep every checkpoint at a multiple of this step; 0: none.")
    asynchronous: bool = Field(
        True,
        description="Train on while a copy of the state is written; it takes 12 bytes a parameter of host memory over "
        "all ranks.",
    )
    notice_seconds: float = Field(
        30, gt=0, description="Time between a signal to stop and the kill: a save that takes longer is warned of."
    )


class EvaluationConfig(Section):
    """Held-out evaluation, representation health and sample texts."""

    every: int = Field(100, ge=1, description="Steps between evaluations; the first and last step always evaluate.")
    max_records: int = Field(
        1024, ge=2, description="Held-out records of an evaluation, at most: the same for every seed and layout."
    )
    health_pairs: int = Field(512, ge=2, description="Held-out pairs for the health figures, at most.")
    prompts: int = Field(3, ge=0, description="Held-out first views that are continued as text.")
    prompt_tokens: int = Field(
        8, ge=1, description="Tokens of a prompt in the independent layout; conditional prompts with the whole view."
    )
    new_tokens: int = Field(48, ge=1, description="Most tokens of a continuation (greedy).")


class ProbeConfig(Section):
    """A linear probe of held-out embeddings while training; whole reports are made by ``python -m probes``."""

    every: int = Field(
        0, ge=0, description="Steps between probes; 0: none. Needs held-out records with labels (reviews have them)."
    )
    max_records: int = Field(2048, ge=20, description="Held-out records that are probed, at most.")


class LoggingConfig(Section):
    """What is written while training."""

    every: int = Field(10, ge=1, description="Steps between lines in metrics.jsonl and TensorBoard.")
    tensorboard: bool = Field(True, description="Write TensorBoard events to RUN/tensorboard.")
    progress_bar: bool | None = Field(None, description="Progress bar on rank 0; null: only on a terminal.")
    ledger: bool = Field(False, description="Every rank writes the rows of each step to RUN/ledger (an audit).")
    profile: tuple[int, int] | None = Field(
        None,
        description="First and last step (from 1) of a profile: a trace and a table in RUN/profile. Later than the "
        "first few, which compile and warm up.",
    )
    peak_tflops: float | None = Field(
        None, gt=0, description="Peak of one device for MFU; null: looked up by device name, else no MFU."
    )

    @field_validator("profile")
    @classmethod
    def _steps_in_order(cls, steps: tuple[int, int] | None) -> tuple[int, int] | None:
        if steps is not None and not 1 <= steps[0] <= steps[1]:
            raise ValueError(f"{list(steps)} are no steps: give the first and the last, counted from 1")
        return steps


class Config(Section):
    """Everything that a pre-training run needs to know."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    model: ModelConfig = ModelConfig()
    packing: PackingConfig = PackingConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), json_schema_extra=FREE)
    evaluation: EvaluationConfig = Field(EvaluationConfig(), json_schema_extra=FREE)
    probe: ProbeConfig = Field(ProbeConfig(), json_schema_extra=FREE)
    logging: LoggingConfig = Field(LoggingConfig(), json_schema_extra=FREE)
