"""A pipeline file: pre-training, fine-tuning and probing of one or several runs, with Slurm's options for each.

    folder: runs/jepa                    # runs/jepa/pretrain/NAME, runs/jepa/finetune/NAME, runs/jepa/probe
    sbatch: {nodes: 1, ntasks-per-node: 8, gpus-per-node: 8, cpus-per-task: 8, time: "24:00:00"}
    seeds: [0, 1]                        # NAME is SETTING-seedN, SETTING or seedN
    settings:
      plain: {objective.lambda: 0}
      mixed: {objective.lambda: 0.5, finetune: {objective.lambda: 0.1}}
    pretrain: {config: configs/nlrx_synth.yaml, set: {packing.reserve_branches: true}}
    finetune: {config: configs/finetune/nlrx_synth.yaml, sbatch: {time: "4:00:00"}}
    probe: {arguments: [--data, rotten_tomatoes]}

A stage may be left out. Fine-tuning starts from the pre-training run of the same name, whatever architecture its own
config names.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, StrictBool, ValidationError

from finetune.config import FinetuneConfig
from pretrain.config.loading import load_config
from pretrain.config.section import Section
from pretrain.config.sections import Config
from pretrain.engine.checks import check_with_libraries
from pretrain.runtime import yaml_file
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion

Options = dict[str, str | StrictBool]
TRAINING: Mapping[str, type[Config]] = {"pretrain": Config, "finetune": FinetuneConfig}


class TrainingStage(Section):
    """Pre-training or fine-tuning.

    Attributes:
        config: The stage's config file.
        set: Settings on top of it, by dotted key.
        sbatch: Options on top of the pipeline's.
    """

    config: Path
    set: dict[str, Any] = Field(default_factory=dict)
    sbatch: Options = Field(default_factory=dict)


class ProbeStage(Section):
    """One report on all runs.

    Attributes:
        arguments: Of ``python -m probes``, without models and ``--out``.
        of: Stages whose models are probed; empty: the last one before.
        sbatch: Options on top of the pipeline's.
    """

    arguments: tuple[str, ...]
    of: tuple[Literal["pretrain", "finetune"], ...] = ()
    sbatch: Options = Field(default_factory=dict)


class Pipeline(Section):
    """The file.

    Attributes:
        folder: Holds all run folders.
        sbatch: Options of every job, by their long names.
        environment: Variables of every job.
        seeds: One run each; empty: one run with the config's seed.
        settings: One run each, by name: settings of all training stages, or of one below that stage's name.
        at_once: Most runs of a stage at the same time.
        pretrain: Stage.
        finetune: Stage.
        probe: Stage.
    """

    folder: Path
    sbatch: Options = Field(default_factory=dict)
    environment: dict[str, str] = Field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    at_once: int | None = Field(None, ge=1)
    pretrain: TrainingStage | None = None
    finetune: TrainingStage | None = None
    probe: ProbeStage | None = None

    def training(self) -> dict[str, TrainingStage]:
        """The training stages of the pipeline, in order."""
        stages = {"pretrain": self.pretrain, "finetune": self.finetune}
        return {name: stage for name, stage in stages.items() if stage is not None}


@dataclass(frozen=True)
class PlannedRun:
    """A run that is to be submitted.

    Attributes:
        stage: ``pretrain`` or ``finetune``.
        name: Of the run among those of its stage; empty if it is the only one.
        config: Its config; ``model.path`` of a model that is yet to be trained is a stand-in's.
        text: Its config as YAML.
    """

    stage: str
    name: str
    config: Config
    text: str

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.config.run.folder


def read_pipeline(path: Path) -> Pipeline:
    """Reads and checks a pipeline file; the configs it names are not opened.

    Raises:
        DiptychError: Lists every problem with its key.
    """
    tree = yaml_file.read_mapping(path, "folder and stages")
    try:
        pipeline = yaml_file.validate(Pipeline, tree, as_written=True)  # set and settings become overrides
    except ValidationError as error:
        problems = [_describe(item["type"], item["loc"], item["msg"]) for item in error.errors()]
        raise DiptychError("\n  ".join([f"{path}: no sound pipeline", *problems])) from None
    if problems := list(_problems(pipeline)):
        raise DiptychError("\n  ".join([f"{path}: no sound pipeline", *problems]))
    return pipeline


def plan_runs(pipeline: Pipeline) -> dict[str, list[PlannedRun]]:
    """Every run of every training stage, its config loaded; runs of all stages are in the same order.

    Raises:
        DiptychError: A config has a problem; names the stage and the run.
    """
    settings: dict[str, dict[str, Any]] = pipeline.settings or {"": {}}
    seeds: tuple[int | None, ...] = pipeline.seeds or (None,)
    runs: dict[str, list[PlannedRun]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        stand_in = _stand_in(Path(scratch))
        for stage, given in pipeline.training().items():
            runs[stage] = []
            own = _without_architecture(given.config)
            for setting, changes in settings.items():
                for seed in seeds:
                    name = "-".join(filter(None, [setting, "" if seed is None else f"seed{seed}"]))
                    keys = {**given.set, **_of_stage(changes, stage), "run.folder": str(pipeline.folder / stage / name)}
                    if seed is not None:
                        keys["run.seed"] = seed
                    model = None
                    if stage == "finetune" and pipeline.pretrain is not None:
                        model = pipeline.folder / "pretrain" / name / "export"
                        keys = own | keys | {"model.path": str(stand_in)}
                    overrides = [f"{key}={yaml_file.dump_line(value)}" for key, value in keys.items()]
                    try:
                        config = load_config(given.config, overrides, TRAINING[stage])
                        check_with_libraries(config, given.config)
                    except DiptychError as error:
                        raise DiptychError(f"{stage}{f' {name}' if name else ''}: {error}") from None
                    runs[stage].append(PlannedRun(stage, name, config, _text(config, model)))
    return runs


def _of_stage(changes: Mapping[str, Any], stage: str) -> dict[str, Any]:
    everywhere = {key: value for key, value in changes.items() if key not in TRAINING}
    return everywhere | dict(changes.get(stage) or {})


def _without_architecture(path: Path) -> dict[str, Any]:
    """Removes the architecture from a config that would train from scratch; ``load_config`` reports mistakes in it."""
    try:
        model = yaml_file.read_mapping(path, "sections")["model"]
        return {"model": {key: value for key, value in model.items() if key not in ("type", "fields")}}
    except (DiptychError, KeyError, AttributeError):
        return {}


def _text(config: Config, model: Path | None) -> str:
    """The settings that were given, as YAML; the rest are defaults of the code that is frozen with it."""
    tree = config.model_dump(mode="json", by_alias=True, exclude_unset=True)
    if model is not None:
        tree["model"]["path"] = tree["tokenizer"]["path"] = str(model)
    return yaml_file.dump(tree)


def _stand_in(folder: Path) -> Path:
    """A folder that passes for a model, to check a config before the model exists."""
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (folder / "model.safetensors").touch()
    return folder


def _problems(pipeline: Pipeline) -> Iterator[str]:
    stages = pipeline.training()
    if not stages:
        yield "pretrain: no stage that trains; give pretrain or finetune (probing alone: launch/slurm/probe.sbatch)"
    for name in pipeline.settings:
        if not name or not all(letter.isalnum() or letter in "._-" for letter in name):
            yield f"settings.{name}: becomes a folder's name; use letters, digits, dot, dash and underscore"
    if len(set(pipeline.seeds)) < len(pipeline.seeds):
        yield f"seeds: {list(pipeline.seeds)} names one twice"
    for stage in pipeline.probe.of if pipeline.probe else ():
        if stage not in stages:
            yield f"probe.of: {stage} is no stage of this pipeline"
    every = [("sbatch", pipeline.sbatch), *((f"{name}.sbatch", stage.sbatch) for name, stage in stages.items())]
    every += [("probe.sbatch", pipeline.probe.sbatch)] if pipeline.probe else []
    for place, options in every:
        for option in options:
            if option in _OURS:
                yield f"{place}.{option}: is not free; {_OURS[option]}"
    every_stage = {
        "run.folder": "it follows from folder",
        "run.seed": "give seeds",
        "run.resume": "a requeue needs auto",
    }
    for place, given in (
        *((f"{name}.set", stage.set) for name, stage in stages.items()),
        *((f"settings.{name}", changes) for name, changes in pipeline.settings.items()),
    ):
        for key, why in every_stage.items():
            if key in given:
                yield f"{place}.{key}: is not free; {why}"


_OURS = {
    "array": "give seeds, settings and at_once",
    "dependency": "it follows from the stages",
    "output": "all output is in FOLDER/submitted",
    "chdir": "paths are those of where you submit",
    "export": "give environment",
    "no-requeue": "a preempted job is requeued",
}


def _describe(problem_type: str, location: tuple[int | str, ...], message: str) -> str:
    key = ".".join(map(str, location))
    if problem_type != "extra_forbidden":
        return f"{key}: {message[:1].lower()}{message[1:]}"
    section: type[Section] = Pipeline
    if len(location) > 1:
        section = ProbeStage if location[0] == "probe" else TrainingStage
    return f"{key}: unknown key; {suggestion(str(location[-1]), section.model_fields)}"
