"""Settings: every mistake at once with its place and the nearest key; what is written is read back the same."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.loading import dump_config, identity, load_config, settings_help, split_arguments
from pretrain.config.sections import Config
from pretrain.engine.checks import check_with_libraries
from pretrain.engine.config import EXTRA_KEYS, OWN_KEYS, deepspeed_config, zero3_sizes
from pretrain.model.blocks import Shape
from pretrain.runtime.errors import DiptychError
from pretrain.sources import JsonlSource, MessagesSource, ReviewsSource

ROOT = Path(__file__).resolve().parents[3]


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "config.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def problems(path: Path | None, *overrides: str) -> list[str]:
    """The lines of the refusal, the headline first."""
    with pytest.raises(DiptychError) as caught:
        check_with_libraries(load_config(path, overrides), path)
    return str(caught.value).split("\n  ")


# ---------------------------------------------------------------------------------------------------------- reading


def test_every_problem_is_listed_at_once_with_its_path_and_the_nearest_key(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
objektive: {lambda: 1}
objective: {lamda: 0.5, gamma: -1, pooling: first}
train: {stepz: 5, steps: 5}
data: {sources: [{type: jsonl, path: a.jsonl}, {type: jsonl, paht: b.jsonl, path: c}], views: [text, code]}
model: {lr: 3}
""",
    )
    head, *lines = problems(path)
    assert head == f"{path}: {len(lines)} problems"
    expected = [
        "objektive: unknown key; did you mean objective?",
        "objective.lamda: unknown key; did you mean objective.lambda?",
        "objective.gamma: input should be greater than or equal to 0 (given -1)",
        "objective.pooling: input should be 'last' or 'mean' (given 'first')",
        "train.stepz: unknown key; did you mean train.steps?",
        "data.sources.1.paht: unknown key; did you mean data.sources.1.path?",
        "model.lr: unknown key; did you mean optimizer.lr?",  # right word, wrong section
    ]
    assert [line for line in expected if line not in lines] == []


def test_an_unknown_key_that_resembles_nothing_lists_the_known_ones(tmp_path: Path) -> None:
    lines = problems(written(tmp_path, "checkpoint: {zzz: 1}"))
    known = "every, keep_last, keep_every, asynchronous, notice_seconds"
    assert lines[1:] == [f"checkpoint.zzz: unknown key; known here: {known}"]


def test_a_key_named_like_a_source_type_keeps_its_path(tmp_path: Path) -> None:
    assert problems(written(tmp_path, "data: {jsonl: 3}"))[1].startswith("data.jsonl: unknown key")


def test_an_unknown_source_type_names_the_known_ones(tmp_path: Path) -> None:
    lines = problems(written(tmp_path, "data: {sources: [{type: xml, path: x}]}"))
    assert "data.sources.0" in lines[1] and all(name in lines[1] for name in ("xml", "jsonl", "messages", "reviews"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run: {seed: 1}\nrun: {seed: 2}\n", "{path}:2: invalid YAML: key 'run' is given twice"),
        ("run:\n  seed: 1\n  folder: x\n  seed: 2\n", "{path}:4: invalid YAML: key 'seed' is given twice"),
        ("run:\n  seed: [1\ntrain:\n", "{path}:3: invalid YAML: "),
        ("run:\n\tseed: 1\n", "{path}:2: invalid YAML: "),
        ("run: {folder: !!python/object:os.system x}\n", "{path}:1: invalid YAML: "),
        ("? [1, 2]\n: 3\n", "{path}:1: invalid YAML: key [1, 2] is no plain word"),
        (b"run:\n  folder: caf\xe9\n", "{path}:2: not valid UTF-8"),
        ("run: {folder: a\x00b}\n", "{path}: invalid YAML: unacceptable character"),
        ('run: {folder: "\\UFFFFFFFF"}\n', "{path}: invalid YAML: "),
        ('run: {folder: "a\\ud800"}\n', "{path}:1: invalid YAML: a text holds half a surrogate pair"),
        ('run: {folder: "a\\0"}\n', "{path}:1: invalid YAML: a text holds a NUL"),
        ("run: {seed: !!bool 3}\n", "{path}:1: invalid YAML: '3' is no !!bool"),
        ("run: {seed: " + "9" * 5000 + "}\n", "{path}:1: invalid YAML: a number of 5,000 digits"),
        ("run: " + "[" * 9999 + "\n", "{path}:1: invalid YAML: it is nested too deeply"),
        ("- " * 9999, "{path}: invalid YAML: it is nested too deeply"),
        ("run: &a {seed: *a}\n", "{path}:1: invalid YAML: an alias stands for what it is part of"),
        ("run: {<<: {? [1] : 2}}\n", "{path}:1: invalid YAML: key [1] is no plain word"),
        ("run: {<<: {seed: 1, seed: 2}}\n", "{path}:1: invalid YAML: key 'seed' is given twice"),
        ("run: {1: a, '1': b}\n", "{path}:1: invalid YAML: key '1' is given twice"),
        ("- run\n", "{path}: expected a mapping of sections, found list"),
        ("run\n", "{path}: expected a mapping of sections, found str"),
    ],
)
def test_an_unreadable_config_names_the_line(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DiptychError) as caught:
        load_config(path)
    assert str(caught.value).startswith(message.format(path=path))


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"config .*nowhere\.yaml: cannot be read \(No such file or directory\)"):
        load_config(tmp_path / "nowhere.yaml")


def test_an_empty_file_has_the_defaults_of_every_section(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, "# nothing\n")) == Config()


def test_without_a_file_the_shipped_demo_is_run() -> None:
    assert load_config(None) == load_config(ROOT / "configs" / "demo.yaml")


def test_rules_between_sound_sections_are_reported_beside_broken_sections() -> None:
    lines = problems(None, "train.stepz=3", "objective.predictors=9", "model.fields.hiden_size=3")
    assert len(lines) == 1 + 2
    assert lines[1] == "train.stepz: unknown key; did you mean train.steps?"
    assert any(line.startswith("objective.predictors: needs 9 [PRED] tokens") for line in lines)
    _, line = problems(None, "model.fields.hiden_size=3")  # which only the libraries know
    assert line.startswith("model.fields.hiden_size") and "hidden_size" in line
    assert len(problems(None, "tokenizer.zzz=1", "objective.predictors=9")) == 1 + 1  # whose number of tokens is open


def test_a_section_given_in_part_keeps_the_defaults_that_the_help_shows(tmp_path: Path) -> None:
    config = load_config(written(tmp_path, "train: {rows_per_step: 8}\nmodel: {type: llama}\nobjective: {gamma: 2}"))
    assert dump_config(config).splitlines() != dump_config(Config()).splitlines()
    changed = {key for key, value in identity(config).items() if identity(Config())[key] != value}
    assert changed == {"train.rows_per_step", "objective.gamma"}


def test_yaml_anchors_may_be_merged(tmp_path: Path) -> None:
    text = "optimizer: &a {lr: 0.5, clip: 2.0}\n"
    config = load_config(written(tmp_path, text + "train: {steps: 1, <<: {rows_per_step: 3, steps: 9}}\n"))
    assert config.train.steps == 1 and config.train.rows_per_step == 3 and config.optimizer.lr == 0.5


def test_lambda_is_the_name_in_yaml_and_in_overrides(tmp_path: Path) -> None:
    path = written(tmp_path, "objective: {lambda: 0.25}")
    assert load_config(path).objective.lambda_ == 0.25
    assert load_config(path, ["objective.lambda=0.5"]).objective.lambda_ == 0.5
    assert "lambda: 0.25" in dump_config(load_config(path)) and "lambda_:" not in dump_config(load_config(path))
    line = "objective.lambda_: unknown key; did you mean objective.lambda?"
    assert problems(path, "objective.lambda_=0.5")[1] == line


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1E-3", 1e-3), ("2.5e-4", 2.5e-4), ("1", 1.0), (".5e-2", 5e-3), ("+1e-3", 1e-3)],
)
def test_numbers_need_no_dot(tmp_path: Path, text: str, value: float) -> None:
    assert load_config(None, [f"optimizer.lr={text}"]).optimizer.lr == value
    path = written(tmp_path, f"optimizer: {{lr: {text}}}\nmodel: {{fields: {{rope_theta: {text}}}}}")
    config = load_config(path)
    assert config.optimizer.lr == value
    assert config.model.fields["rope_theta"] == value and not isinstance(config.model.fields["rope_theta"], str)


# --------------------------------------------------------------------------------------------------------- overrides


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("run.seed=7", lambda c: c.run.seed, 7),
        ("run.folder=runs/other one", lambda c: c.run.folder, Path("runs/other one")),
        ("objective.stop_gradient=true", lambda c: c.objective.stop_gradient, True),
        ("data.max_view_tokens=null", lambda c: c.data.max_view_tokens, None),
        ("data.views=[paraphrase, review]", lambda c: c.data.views, ("paraphrase", "review")),
        ("optimizer.betas=[0.8, 0.9]", lambda c: c.optimizer.betas, (0.8, 0.9)),
        ("model.fields.num_hidden_layers=9", lambda c: c.model.fields["num_hidden_layers"], 9),
        (
            "deepspeed.extra.zero_optimization={sub_group_size: 5}",
            lambda c: c.deepspeed.extra,
            {"zero_optimization": {"sub_group_size": 5}},
        ),
        (
            "deepspeed.extra.zero_optimization.sub_group_size=5",
            lambda c: c.deepspeed.extra,
            {"zero_optimization": {"sub_group_size": 5}},
        ),
        ("data.sources=[{type: reviews, count: 50}]", lambda c: c.data.sources[0].count, 50),
    ],
)
def test_an_override_has_the_type_of_its_setting(override: str, read: Any, value: Any) -> None:
    assert read(load_config(None, [override])) == value


def test_a_number_in_an_override_is_a_list_index(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        "data: {views: [text, code], sources: [{type: jsonl, path: a.jsonl}, {type: jsonl, path: b.jsonl}]}",
    )
    config = load_config(path, ["data.sources.1.path=c.jsonl", "data.sources.0.keep.label=1"])
    assert [source.path for source in config.data.sources] == ["a.jsonl", "c.jsonl"]  # type: ignore[union-attr]
    assert config.data.sources[0].keep == {"label": 1}  # type: ignore[union-attr]
    assert problems(path, "data.sources.2.path=x")[1] == "data.sources.2.path: no such place in the config"


def test_overrides_apply_over_the_file_and_later_ones_over_earlier(tmp_path: Path) -> None:
    path = written(tmp_path, "run: {seed: 1}\ntrain: {steps: 10, rows_per_step: 8}")
    config = load_config(path, ["run.seed=2", "run.seed=3"])
    assert (config.run.seed, config.train.steps, config.train.rows_per_step) == (3, 10, 8)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("optimizer.learning=1", "optimizer.learning: unknown key"),
        ("optimiser.lr=1", "optimiser: unknown key; did you mean optimizer?"),
        ("lambda=1", "lambda: unknown key; did you mean objective.lambda?"),
        ("run.seed=many", "run.seed: input should be a valid integer"),
        ("run.seed=-1", "run.seed: input should be greater than or equal to 0 (given -1)"),
        ("optimizer.lr=.nan", "optimizer.lr: "),
        ("run.seed.deep=1", "run.seed: input should be a valid integer"),
        ("run.seed=[1", "run.seed: '[1' is no valid YAML value"),
        ("run.seed", "'run.seed': expected key=value, e.g. train.steps=100"),
        ("=3", "'=3': expected key=value"),
    ],
)
def test_a_wrong_override_is_refused_by_its_key(override: str, line: str) -> None:
    head, *lines = problems(None, override)
    assert head == "config: 1 problem"
    assert lines[0].startswith(line)


def test_wrong_overrides_are_all_listed(tmp_path: Path) -> None:
    lines = problems(written(tmp_path, "run: {sed: 1}"), "run.seed=[", "nonsense", "train.steps=0")
    assert len(lines) == 5 and lines[0].endswith("4 problems")


def test_arguments_are_a_config_and_overrides() -> None:
    assert split_arguments(["a.yaml", "b=1", "c.d=2"]) == (Path("a.yaml"), ["b=1", "c.d=2"])
    assert split_arguments(["b=1"]) == (None, ["b=1"])
    assert split_arguments([]) == (None, [])


# ----------------------------------------------------------------------------------------------------- contradictions


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["objective.distance=cosin"], "objective.distance: unknown distance; did you mean cosine? (given 'cosin')"),
        (["objective.distance=zzz"], "objective.distance: unknown distance; known: cosine, l2"),
        (
            ["objective.distance=cosine", "objective.group_rows=2"],
            "objective.group_rows: needs objective.distance infonce",
        ),
        (["objective.distance=infonce", "objective.group_rows=3"], "objective.group_rows: 3 does not divide"),
        (["objective.gamma=0", "objective.lambda=0"], "objective.gamma: gamma and lambda are both 0"),
        (
            ["objective.predictors=5"],
            "objective.predictors: needs 5 [PRED] tokens, but tokenizer.predictor_tokens is 4",
        ),
        (["data.views=[review, code]"], "data.sources.0: has views review, "),
        (["data.sources=[]"], "data.sources: "),
        (["train.steps=3", "train.epochs=2"], "train: give steps or epochs, not both"),
        (["deepspeed.offload_parameters=true", "deepspeed.zero_stage=2"], "deepspeed.offload_parameters: needs"),
        (["deepspeed.offload_optimizer=true", "deepspeed.zero_stage=0"], "deepspeed.offload_optimizer: needs"),
        (["optimizer.name=muon", "optimizer.clip=1.0"], "optimizer.clip: muon's update has a norm of its own"),
        (["objective.distance=l2", "objective.temperature=0.1"], "objective.temperature: needs objective.distance inf"),
        (["objective.repeat_predictor=true"], "objective.repeat_predictor: needs objective.predictors above 1"),
        (["objective.dropout_rescale=true"], "objective.dropout_rescale: needs objective.dropout above 0, without"),
        (["optimizer.muon_lr=0.1"], "optimizer.muon_lr: needs optimizer.name muon, without which it has no effect"),
        (["optimizer.decay_fraction=0.1"], "optimizer.decay_fraction: needs optimizer.schedule wsd"),
        (["train.max_bad_steps=1"], "train.max_bad_steps: needs train.on_bad_step skip or rollback"),
        (["data.max_bad_share=0.5"], "data.max_bad_share: needs data.on_bad_row skip"),
        (["data.deduplication.bands=2"], "data.deduplication.bands: needs data.deduplication.near"),
        (["evaluation={prompts: 0, new_tokens: 8}"], "evaluation.new_tokens: needs evaluation.prompts above 0"),
        (["packing.layout=conditional", "evaluation.prompt_tokens=4"], "evaluation.prompt_tokens: needs evaluation.pr"),
        (["probe.max_records=100"], "probe.max_records: needs probe.every above 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides: list[str], line: str) -> None:
    assert problems(None, *overrides)[1].startswith(line)


@pytest.mark.parametrize(
    "overrides",
    [
        ["objective.predictors=9", "objective.repeat_predictor=true"],
        ["objective.predictors=9", "tokenizer.predictor_tokens=9"],
        ["objective.predictors=0"],
        ["objective.distance=infonce", "objective.group_rows=4"],
        ["train.epochs=2", "train.steps=null"],
        ["optimizer.name=muon", "optimizer.clip=0", "optimizer.muon_lr=0.1"],
        ["optimizer.muon_lr=0.02", "optimizer.decay_fraction=0.2", "objective.temperature=0.07"],  # the defaults
        ["objective.lambda=0", "objective.distance=infonce", "objective.temperature=0.1"],  # one arm of a comparison
    ],
)
def test_settings_that_agree_are_taken(overrides: list[str]) -> None:
    tree = load_config(None, overrides).model_dump(by_alias=True)
    for override in overrides:
        key, _, value = override.partition("=")
        section, name = key.split(".")
        assert tree[section][name] == yaml.safe_load(value)


# ------------------------------------------------------------------------------------------------------- writing back


def test_a_dumped_config_reads_back_the_same(tmp_path: Path) -> None:
    overrides = [
        "optimizer.lr=1e-5",
        "objective.lambda=0.1",
        "run.folder='1e5'",
        "run.resume='2026-01-01'",
        "model.fields={hidden_size: 64, rope_theta: 1e6, hidden_act: '1e4', rms_norm_eps: 'no'}",
        "data.sources=[{type: jsonl, path: ä.jsonl, keep: {label: 'yes', n: 1}, fields: {text: a, code: b}}]",
        "data.views=[text, code]",
        "deepspeed.extra.zero_optimization.sub_group_size=1000",
        "train.epochs=0.5",
        "train.steps=null",
    ]
    config = load_config(None, overrides)
    path = written(tmp_path, dump_config(config))
    assert load_config(path) == config
    assert dump_config(load_config(path)) == path.read_text()


def test_the_resolved_config_of_a_run_from_a_model_reads_back(tmp_path: Path) -> None:
    given = written(tmp_path, "model: {path: someone/model}\ndata: {sources: [{type: reviews, count: 9}]}\n")
    config = load_config(given)
    assert load_config(written(tmp_path, dump_config(config))) == config


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(
    st.floats(1e-12, 1e12),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
    st.dictionaries(
        st.sampled_from(["hidden_size", "hidden_act", "rope_theta"]),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text("1e+-.5"),
    ),
)
def test_any_value_survives_writing_and_reading(
    tmp_path_factory: pytest.TempPathFactory, lr: float, resume: str, fields: dict[str, Any]
) -> None:
    tree = {"optimizer": {"lr": lr}, "run": {"resume": resume}, "model": {"fields": fields}}
    config = Config.model_validate(tree)
    path = written(tmp_path_factory.getbasetemp(), dump_config(config))
    assert load_config(path) == config


def leaves(tree: dict[str, Any], section: Any, prefix: str = "") -> dict[str, Any]:
    """Every setting of a dumped config by its dotted key."""
    found = {}
    for key, value in tree.items():
        below = getattr(section, "lambda_" if key == "lambda" else key)
        if hasattr(type(below), "model_fields"):
            found |= leaves(value, below, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_settings_help_lists_every_setting_with_meaning_and_default() -> None:
    settings_, *source_types = settings_help().split("\n\nSettings of a source with type: ")
    lines = settings_.splitlines()
    shown = {}
    for setting, meaning in zip(lines[::2], lines[1::2], strict=True):
        key, _, value = setting.strip().partition(" = ")
        shown[key] = yaml.safe_load(value)
        assert meaning.startswith("      ") and len(meaning.split()) >= 2 and "None" not in meaning, key
    defaults = leaves(yaml.safe_load(dump_config(Config())), Config())
    assert shown == defaults
    assert {"objective.lambda", "train.rows_per_step", "model.fields", "deepspeed.zero_stage"} <= set(shown)
    for source in (JsonlSource, MessagesSource, ReviewsSource):
        (text,) = (
            text for text in source_types if text.startswith(get_args(source.model_fields["type"].annotation)[0])
        )
        for name, field in source.model_fields.items():
            assert name == "type" or (name in text and str(field.description) in text), name


FREE = [
    "run.folder=elsewhere",
    "run.resume=never",
    "data.folder=elsewhere",
    "train.micro_batch_rows=2",
    "train.timeout_minutes=5",
    "deepspeed.zero_stage=1",
    "deepspeed.offload_optimizer=true",
    "deepspeed.extra.steps_per_print=7",
    "checkpoint.every=3",
    "evaluation.max_records=3",
    "logging.every=3",
]
IDENTITY = [
    "run.seed=1",
    "data.heldout_fraction=0.1",
    "tokenizer.vocab_size=999",
    "model.fields.hidden_size=64",
    "packing.row_length=512",
    "packing.reserve_branches=true",
    "objective.lambda=0.123",
    "objective.pooling=mean",
    "train.rows_per_step=32",
    "train.steps=17",
    "train.precision=float32",
    "optimizer.lr=0.123",
]


@pytest.mark.parametrize("override", FREE)
def test_what_a_resumption_may_change_is_no_part_of_the_identity(override: str) -> None:
    base, changed = load_config(None), load_config(None, [override])
    assert base != changed
    assert identity(base) == identity(changed)
    assert override.partition("=")[0] not in identity(base)


@pytest.mark.parametrize("override", IDENTITY)
def test_what_makes_a_run_this_run_is_part_of_its_identity(override: str) -> None:
    full = ["train.steps=5", "train.rows_per_step=16", "model.fields={hidden_size: 32}"]
    base, changed = load_config(None, full), load_config(None, [*full, override])
    assert identity(base) != identity(changed)
    different = {key for key, value in identity(base).items() if identity(changed)[key] != value}
    key = override.partition("=")[0]
    assert different == {"model.fields" if key.startswith("model.fields") else key}


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_configs_are_valid(path: Path) -> None:
    config = load_config(path)
    deepspeed_config(config, micro_batch_rows=1, accumulation=1, world_size=1, bfloat16=True)
    assert config.run.folder.name == path.stem or config.run.folder != Config().run.folder


# ---------------------------------------------------------------------------------------------------------- deepspeed


def generated(*overrides: str, bfloat16: bool = False, **sizes: int) -> dict[str, Any]:
    sizes = {"micro_batch_rows": 4, "accumulation": 2, "world_size": 3} | sizes
    return deepspeed_config(load_config(None, overrides), **sizes, bfloat16=bfloat16)


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [
        (Shape(1_000_000_000, 60_000_000, 130_000_000), (60_000_000, 130_000_000, None)),
        (Shape(70_000_000_000, 850_000_000, 1_050_000_000), (850_000_000, 500_000_000, None)),
        (Shape(30_000_000, 2_000_000, 12_000_000), (2_000_000, 12_000_000, 12_000_000)),
    ],
)
def test_zero3s_buffers_follow_from_the_models_shape(shape: Shape, sizes: tuple[int, int, int | None]) -> None:
    prefetched, reduced, whole = sizes
    zero = zero3_sizes(shape)
    assert zero["stage3_prefetch_bucket_size"] == prefetched and zero["reduce_bucket_size"] == reduced
    assert zero.get("stage3_param_persistence_threshold") == whole
    given = load_config(None, ["deepspeed.extra={zero_optimization: {reduce_bucket_size: 7}}"])
    merged = deepspeed_config(given, micro_batch_rows=1, accumulation=1, world_size=1, bfloat16=True, shape=shape)[
        "zero_optimization"
    ]
    assert merged == {"stage": 3, **zero, "reduce_bucket_size": 7}


@pytest.mark.parametrize("steps", ["[3, 2]", "[0, 4]"])
def test_a_profile_of_no_steps_is_refused(steps: str) -> None:
    with pytest.raises(DiptychError, match=r"logging\.profile: .* are no steps: give the first and the last"):
        load_config(None, [f"logging.profile={steps}"])


CPU = {"device": "cpu"}
BASE = {
    "train_batch_size": 24,
    "train_micro_batch_size_per_gpu": 4,
    "gradient_accumulation_steps": 2,
    "gradient_clipping": 1.0,
    "zero_optimization": {"stage": 3},
    "zero_allow_untested_optimizer": True,
    "zero_force_ds_cpu_optimizer": False,
}


@pytest.mark.parametrize(
    ("overrides", "bfloat16", "changes"),
    [
        ([], False, {}),
        ([], True, {"bf16": {"enabled": True}, "data_types": {"grad_accum_dtype": "fp32"}}),
        (
            ["deepspeed.zero_stage=0", "optimizer.clip=0"],
            False,
            {"zero_optimization": {"stage": 0}, "gradient_clipping": 0},
        ),
        (
            ["deepspeed.offload_optimizer=true", "deepspeed.offload_parameters=true"],
            False,
            {"zero_optimization": {"stage": 3, "offload_optimizer": CPU, "offload_param": CPU}},
        ),
        (
            ["optimizer.name=muon", "optimizer.clip=0", "deepspeed.zero_stage=2"],
            False,
            {"gradient_clipping": 0, "zero_optimization": {"stage": 2, "reduce_scatter": False}},
        ),
    ],
)
def test_generated_deepspeed_config_is_exactly_this(
    overrides: list[str], bfloat16: bool, changes: dict[str, Any]
) -> None:
    assert generated(*overrides, bfloat16=bfloat16) == BASE | changes


def test_extra_keys_merge_into_the_generated_ones() -> None:
    found = generated(
        "deepspeed.offload_optimizer=true",
        "deepspeed.extra={steps_per_print: 5, zero_optimization: {sub_group_size: 1000, offload_optimizer: "
        "{pin_memory: true}}, bf16: {immediate_grad_update: true}}",
        bfloat16=True,
    )
    assert found == BASE | {
        "steps_per_print": 5,
        "bf16": {"enabled": True, "immediate_grad_update": True},
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": 3,
            "sub_group_size": 1000,
            "offload_optimizer": {"device": "cpu", "pin_memory": True},
        },
    }


@pytest.mark.parametrize(
    ("extra", "line"),
    [
        (
            "{stesp_per_print: 5}",
            "stesp_per_print: unknown key, or none that Diptych passes on; did you mean steps_per_print?",
        ),
        ("{zzz: 5}", "zzz: unknown key, or none that Diptych passes on; known: bf16"),
        (
            "{zero_optimization: {overlap_com: true}}",
            "ZERO.overlap_com: unknown DeepSpeed key; did you mean overlap_comm?",
        ),
        ("{zero_optimization: {offload_param: {devize: cpu}}}", "ZERO.offload_param.devize: unknown DeepSpeed key"),
        ("{zero_optimization: {sub_group_size: many}}", "ZERO.sub_group_size: Input should be a valid integer"),
        ("{zero_optimization: 3}", "zero_optimization: 3 is a int, which DeepSpeed"),
        ("{zero_optimization: {stage: 2}}", "ZERO.stage: generated; set deepspeed.zero_stage instead"),
        ("{bf16: {enabled: true}}", "bf16.enabled: generated; set train.precision instead"),
        ("{train_batch_size: 5}", "train_batch_size: generated; set train.rows_per_step instead"),
    ],
)
def test_wrong_extra_keys_are_refused_with_what_to_do(extra: str, line: str) -> None:
    _, first = problems(None, f"deepspeed.extra={extra}")
    assert first.startswith("deepspeed.extra." + line.replace("ZERO", "zero_optimization"))


def test_every_wrong_extra_key_is_listed() -> None:
    extra = "{fp16: {}, zzz: 1, zero_optimization: {stage: 1, overlap_com: 2}, dump_state: yes please}"
    lines = problems(None, f"deepspeed.extra={extra}", "run.sed=1")
    assert len(lines) >= 2 and lines[1].startswith("run.sed: unknown key")
    lines = problems(None, f"deepspeed.extra={extra}")
    assert len(lines) == 1 + 5 and all(line.startswith("deepspeed.extra.") for line in lines[1:])


def test_no_generated_key_can_be_given_as_extra() -> None:
    for key in generated(bfloat16=True):
        assert key in OWN_KEYS or key in ("zero_optimization", "bf16"), key
    assert not set(EXTRA_KEYS) & set(OWN_KEYS)
    for key in OWN_KEYS:
        section, _, below = key.partition(".")
        extra = f"{{{section}: {{{below}: 1}}}}" if below else f"{{{section}: 1}}"
        with pytest.raises(DiptychError, match=rf"deepspeed\.extra\.{key}: generated; set "):
            generated(f"deepspeed.extra={extra}")


@pytest.mark.slow
def test_deepspeed_itself_accepts_what_is_generated() -> None:
    """In a process of its own: DeepSpeed's config reads the number of ranks from its environment."""
    code = """
import json, sys
from deepspeed.runtime.config import DeepSpeedConfig
for settings in json.load(sys.stdin):
    read = DeepSpeedConfig(settings)
    assert read.zero_config.stage == settings["zero_optimization"]["stage"]
    assert read.gradient_clipping == settings["gradient_clipping"]
    assert read.gradient_accumulation_steps == settings["gradient_accumulation_steps"]
print("accepted")
"""
    configs = [
        generated(*overrides, bfloat16=bfloat16, world_size=1)
        for overrides in (
            [],
            ["deepspeed.zero_stage=1", "deepspeed.offload_optimizer=true"],
            [
                "deepspeed.offload_parameters=true",
                "deepspeed.extra={zero_optimization: {sub_group_size: 9}, dump_state: false}",
            ],
            ["optimizer.name=muon", "optimizer.clip=0"],
        )
        for bfloat16 in (False, True)
    ]
    result = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(configs), capture_output=True, text=True, timeout=120
    )
    assert result.stdout.strip().endswith("accepted"), result.stderr[-2000:]


def test_a_model_path_longer_than_a_file_system_takes_is_one_problem() -> None:
    with pytest.raises(DiptychError, match=r"cannot be read \(File name too long"):
        check_with_libraries(load_config(None, [f"model={{path: ./{'a' * 5000}}}"]))


def test_the_help_and_a_refusal_come_before_torch() -> None:
    code = """
import sys
from pretrain.__main__ import main
from pretrain.runtime.command import run_command
sys.argv = ["pretrain", "--help"]
assert run_command(main) == 0
sys.argv = ["pretrain", "train.stepz=3"]
assert run_command(main) == 1
assert not {"torch", "transformers", "deepspeed"} & sys.modules.keys()
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "train.stepz: unknown key; did you mean train.steps?" in done.stderr
