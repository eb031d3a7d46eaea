"""The settings of a fine-tuning run: those of pre-training, and a task."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator, model_validator

from finetune.prompts import Style
from finetune.tasks import TASKS, Task, make_task
from finetune.tasks.source import TaskSource
from pretrain.config.checks import Need, without_effect
from pretrain.config.data import CleaningConfig, DataConfig, DeduplicationConfig
from pretrain.config.section import Section
from pretrain.config.sections import Config, EvaluationConfig, PackingConfig
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion

LOSSES = ("eval/lm_loss", "eval/bits_per_byte", "eval/pair_loss")
"""What every evaluation gives besides the scores of answers (``pretrain.training.evaluation``)."""


_NEEDS = tuple(
    Need(setting, "evaluation.answers above 0", lambda config: config.evaluation.answers > 0)
    for setting in ("evaluation.answers_before_training", "evaluation.batch_size")
)


class TaskConfig(Section):
    """The task, its settings and the style of its prompts."""

    name: str = Field("nl_regex", description=f"The task: {', '.join(TASKS)} (finetune/tasks/).")
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the task, such as separator.")
    style: Style = Field("plain", description="plain: text, separator, answer. chat: the tokenizer's chat template.")

    @field_validator("settings")
    @classmethod
    def _with_words(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """Reports where the task takes text, so that the config reader keeps words as they were written."""
        if kind := TASKS.get(info.data.get("name", "")):
            try:
                kind.model_validate(settings | {"task": info.data["name"]})
            except ValidationError as error:
                if any(
                    item["type"] == "string_type" and isinstance(item["input"], int | float) for item in error.errors()
                ):
                    raise
        return settings

    @model_validator(mode="after")
    def _known(self) -> "TaskConfig":
        try:
            self.task()
        except DiptychError as error:
            raise ValueError(str(error)) from None
        return self

    def task(self) -> Task:
        """The task itself."""
        return make_task(self.name, **self.settings)


class FinetuneDataConfig(DataConfig):
    """Files of the task: those to train on, and those that choose the model. Test files are never read here."""

    sources: tuple[TaskSource, ...] = Field((), description="Made from train.")  # type: ignore[assignment]
    heldout_sources: tuple[TaskSource, ...] = Field((), description="Made from validation.")  # type: ignore[assignment]
    train: tuple[Path, ...] = Field((), description="Files to train on.")
    validation: tuple[Path, ...] = Field(
        (), description="Files that choose the model; empty: heldout_fraction of the training examples."
    )
    heldout_fraction: float = Field(0.05, ge=0, lt=1, description="Share of training examples held out for validation.")
    views: tuple[Literal["prompt"], Literal["answer"]] = Field(
        ("prompt", "answer"), description="Fixed: what a task's records hold."
    )
    compare_as_written: tuple[str, ...] | None = Field(
        ("answer",),
        description="Views whose texts are equal only if they are so letter for letter; answers may be code.",
    )
    cleaning: CleaningConfig = CleaningConfig(unicode="none", controls="keep", distinct_views=False)
    deduplication: DeduplicationConfig = DeduplicationConfig(exact=False)

    @field_validator("train", "validation", mode="before")
    @classmethod
    def _one_or_more(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str | Path) else value


class FinetunePackingConfig(PackingConfig):
    """How examples become rows; the layout is that of a prompt and its answer."""

    layout: Literal["conditional"] = Field("conditional", description="Loss on the answer given its prompt.")
    row_length: int = Field(512, ge=8, description="Tokens in a row; whole examples only.")


class FinetuneEvaluationConfig(EvaluationConfig):
    """Held-out evaluation, and generated answers of validation examples."""

    answers: int = Field(
        0, ge=0, description="Validation examples that are answered (greedy) and judged at every evaluation; 0: none."
    )
    answers_before_training: bool = Field(
        False, description="Whether the model answers before its first step, too; it decides nothing and may take long."
    )
    batch_size: int = Field(32, ge=1, description="Answers generated at once.")


class StoppingConfig(Section):
    """Which checkpoint is the result, and when to stop; by the validation split, never by test."""

    metric: str = Field(
        "eval/lm_loss",
        description="What chooses the checkpoint: eval/lm_loss, or task/SCORE (needs evaluation.answers).",
    )
    patience: int = Field(0, ge=0, description="Stop after so many evaluations without a better one; 0: never.")

    @property
    def lower_is_better(self) -> bool:
        """Losses fall, scores rise."""
        return self.metric in LOSSES


class FinetuneConfig(Config):
    """All settings of a fine-tuning run; those of pre-training apply too."""

    task: TaskConfig = TaskConfig()
    data: FinetuneDataConfig = FinetuneDataConfig()
    packing: FinetunePackingConfig = FinetunePackingConfig()
    evaluation: FinetuneEvaluationConfig = Field(FinetuneEvaluationConfig(), json_schema_extra={"free_on_resume": True})
    stopping: StoppingConfig = StoppingConfig()

    @model_validator(mode="after")
    def _has_files_and_a_metric(self) -> "FinetuneConfig":
        for problem in without_effect(self, _NEEDS):
            raise ValueError(problem)
        metric, answers = self.stopping.metric, self.evaluation.answers
        if not metric.startswith("task/") and metric not in LOSSES:
            hint = suggestion(metric, LOSSES) if metric.startswith("eval/") else "name eval/lm_loss or task/SCORE"
            raise ValueError(f"stopping.metric: no metric {metric!r}; {hint}")
        if metric.startswith("task/") and not answers:
            raise ValueError(f"stopping.metric: {metric} needs answers; set evaluation.answers, such as 200")
        return self

    @model_validator(mode="before")
    @classmethod
    def _sources_of_the_task(cls, tree: Any) -> Any:
        """Turns the task's files into sources, and takes the tokenizer of the model that training starts from."""
        names = ("data", "task", "model", "tokenizer")
        if not isinstance(tree, dict) or not all(isinstance(tree.get(name) or {}, dict) for name in names):
            return tree  # validation of the sections will report it
        data, task, model = dict(tree.get("data") or {}), tree.get("task") or {}, tree.get("model") or {}
        if "train" in data and not data["train"]:
            raise ValueError("data.train: names no file to train on")
        for key, files in (("sources", data.get("train")), ("heldout_sources", data.get("validation"))):
            listed = [files] if isinstance(files, str | Path) else files or ()
            if not isinstance(listed, list | tuple):
                return tree
            made = [
                {
                    "type": "task",
                    "path": str(file),
                    "task": task.get("name", "nl_regex"),
                    "settings": task.get("settings", {}),
                }
                for file in listed
            ]
            given = data.get(key) or ()
            # Those in the config.yaml of a run were made here, and are made anew.
            if any(not isinstance(source, dict) or source.get("type") != "task" for source in given):
                files_key = "train" if key == "sources" else "validation"
                raise ValueError(f"data.{key}: is made from the files of data.{files_key}; leave it out")
            data[key] = made
        tree = tree | {"data": data}
        if model.get("path") and "path" not in (tree.get("tokenizer") or {}):
            tree = tree | {"tokenizer": (tree.get("tokenizer") or {}) | {"path": str(model["path"])}}
        return tree
