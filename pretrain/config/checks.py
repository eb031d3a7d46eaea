"""Rules that span several settings; without torch, so that a mistake is reported at once.

What only transformers or DeepSpeed can tell is checked by ``pretrain/engine/checks.py``.
"""

from collections.abc import Callable, Iterator, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple

from pretrain.config.sections import COUPLING_DISTANCES, Config
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import nearest


class Need(NamedTuple):
    """A setting that acts only together with another one.

    Attributes:
        setting: Its dotted key.
        needs: What has to be set besides.
        is_met: Whether that is so in a config.
    """

    setting: str
    needs: str
    is_met: Callable[[Any], bool]


_COUPLING = f"objective.distance {' or '.join(COUPLING_DISTANCES)}"
_NEAR = "data.deduplication.near"

# Only lambda 0 leaves settings of the objective without effect that pass: the arms of a comparison differ in it alone.
NEEDS = (
    Need("objective.temperature", _COUPLING, lambda run: run.objective.distance in COUPLING_DISTANCES),
    Need("objective.group_rows", _COUPLING, lambda run: run.objective.distance in COUPLING_DISTANCES),
    Need("objective.repeat_predictor", "objective.predictors above 1", lambda run: run.objective.predictors > 1),
    Need("objective.dropout_rescale", "objective.dropout above 0", lambda run: run.objective.dropout > 0),
    Need("optimizer.muon_lr", "optimizer.name muon", lambda run: run.optimizer.name == "muon"),
    Need("optimizer.decay_fraction", "optimizer.schedule wsd", lambda run: run.optimizer.schedule == "wsd"),
    Need("train.max_bad_steps", "train.on_bad_step skip or rollback", lambda run: run.train.on_bad_step != "stop"),
    Need("deepspeed.offload_parameters", "deepspeed.zero_stage 3", lambda run: run.deepspeed.zero_stage == 3),
    Need("deepspeed.offload_optimizer", "deepspeed.zero_stage 1, 2 or 3", lambda run: run.deepspeed.zero_stage > 0),
    Need("data.max_bad_share", "data.on_bad_row skip", lambda run: run.data.on_bad_row == "skip"),
    Need("data.deduplication.ngram", _NEAR, lambda run: run.data.deduplication.near),
    Need("data.deduplication.bands", _NEAR, lambda run: run.data.deduplication.near),
    Need("data.deduplication.band_hashes", _NEAR, lambda run: run.data.deduplication.near),
    Need(
        "data.decontamination.ngram",
        "data.decontamination.match ngram",
        lambda run: run.data.decontamination.match == "ngram",
    ),
    Need("evaluation.new_tokens", "evaluation.prompts above 0", lambda run: run.evaluation.prompts > 0),
    Need(
        "evaluation.prompt_tokens",
        "evaluation.prompts above 0 and packing.layout independent",
        lambda run: run.evaluation.prompts > 0 and run.packing.layout == "independent",
    ),
    Need("probe.max_records", "probe.every above 0", lambda run: run.probe.every > 0),
)


def without_effect(config: Config, needs: Sequence[Need] = NEEDS) -> Iterator[str]:
    """Settings that are not at their default although they change nothing."""
    for need in needs:
        section_name, _, name = need.setting.rpartition(".")
        section = attrgetter(section_name)(config)
        default = type(section).model_fields[name].default
        if getattr(section, name) != default and not need.is_met(config):
            yield f"{need.setting}: needs {need.needs}, without which it has no effect; set that, or leave it out"


def refuse(problems: Sequence[str], path: Path | None) -> None:
    """Raises a :class:`DiptychError` that lists all problems of the config at ``path``, if there are any."""
    if problems:
        head = f"{path or 'config'}: {len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DiptychError("\n  ".join([head, *problems]))


def contradictions(config: Config) -> Iterator[str]:
    """Rules that span several settings."""
    objective, train, data = config.objective, config.train, config.data
    yield from without_effect(config)
    if train.rows_per_step % objective.group_rows:
        yield (
            f"objective.group_rows: {objective.group_rows} does not divide train.rows_per_step {train.rows_per_step}"
        )
    if objective.gamma == 0 and objective.lambda_ == 0:
        yield "objective.gamma: gamma and lambda are both 0, nothing would be trained"
    distinct = 1 if objective.repeat_predictor else objective.predictors
    if objective.predictors and distinct > config.tokenizer.predictor_tokens:
        yield (
            f"objective.predictors: needs {distinct} [PRED] tokens, but tokenizer.predictor_tokens is "
            f"{config.tokenizer.predictor_tokens}"
        )
    if not data.sources:
        yield "data.sources: names no source"
    titles: dict[str, str] = {}
    for key in ("sources", "heldout_sources"):
        for index, source in enumerate(getattr(data, key)):
            key_of_source = f"data.{key}.{index}"
            before = titles.setdefault(source.title, key_of_source)
            if before != key_of_source:
                yield f"{key_of_source}: is named {source.title!r} like {before}; give it a name of its own"
            for view in dict.fromkeys(data.views):
                if view not in source.view_names():
                    yield f"{key_of_source}: has views {', '.join(source.view_names())}, but data.views asks {view!r}"
    named = [source.name for source in data.sources]
    for index, stage in enumerate(data.mixture):
        for name in (*stage.weights, *stage.budgets):
            if name not in named:
                near = nearest(name, filter(None, named))
                hint = f"did you mean {near}?" if near else "give the source that is meant this name"
                yield f"data.mixture.{index}: no source has the name {name!r}; {hint}"
    for index, source in enumerate(data.decontamination.sources):
        if not set(data.views) & set(source.view_names()):
            names = ", ".join(source.view_names())
            yield f"data.decontamination.sources.{index}: has views {names}, none of data.views {list(data.views)}"
        elif data.decontamination.match == "pair" and not set(data.views) <= set(source.view_names()):
            yield (
                f"data.decontamination.sources.{index}: has not both of data.views {list(data.views)}, so "
                "data.decontamination.match pair would find nothing in it; match view or ngram"
            )
    for view in data.compare_as_written or ():
        if view not in data.views and "compare_as_written" in data.model_fields_set:
            yield f"data.compare_as_written: {view!r} is none of data.views {list(data.views)}"
    for view in data.decontamination.views or ():
        if view not in data.views:
            yield f"data.decontamination.views: {view!r} is none of data.views {list(data.views)}"
    if config.optimizer.name == "muon" and config.optimizer.clip:
        # DeepSpeed 0.19.8 clips after orthogonalisation in stages 1 to 3: a limit would only shrink Muon's update.
        yield "optimizer.clip: muon's update has a norm of its own; set optimizer.clip to 0"
