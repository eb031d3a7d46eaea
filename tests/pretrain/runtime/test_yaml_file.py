"""YAML: what users write as words stays so, from files and overrides to rows and answers; numbers are numbers."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from finetune.config import FinetuneConfig
from finetune.evaluate import read_arguments
from finetune.tasks import make_task
from launch.pipeline import plan_runs, read_pipeline
from launch.submit import plan_jobs
from pretrain.config.loading import dump_config, load_config
from pretrain.runtime.errors import DiptychError
from pretrain.runtime.yaml_file import dump, dump_line, parse, plain
from pretrain.sources.columns import same_word

WORDS = "yes Yes no NO on off y n 1_000 0b1 12:30 1:02:03 2026-11-26 1.2.3 e5 nul"
SCALARS: Any = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
NUMBERS = r"[-+]?[0-9]{1,9}(\.[0-9]{0,9})?([eE][-+]?[0-9]{1,2})?|0x[0-9a-f]{1,9}|True|FALSE"


# The tables of YAML 1.2.2, sections 10.2.1 and 10.3.2, and what YAML 1.1 takes for something else.
@pytest.mark.parametrize(
    ("text", "value"),
    [
        *((word, word) for word in WORDS.split()),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        ("0", 0),
        ("0o7", 7),
        ("0x3A", 58),
        ("-19", -19),
        ("0123", 123),
        ("089", 89),
        ("0.", 0.0),
        ("-0.0", -0.0),
        (".5", 0.5),
        ("+12e03", 12000.0),
        ("-2E+05", -200000.0),
        ("1e-4", 1e-4),
        ("1.10", 1.1),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
        ("'1.10'", "1.10"),
        ("!!str 1.10", "1.10"),
        ('"\\ud83d\\ude00"', "\U0001f600"),
    ],
)
def test_types_are_those_of_the_core_schema(text: str, value: object) -> None:
    found = plain(parse(f"a: {text}"))["a"]
    assert found == value and type(found) is type(value)


def test_keys_are_words() -> None:
    text = "{yes: 1, no: 2, 1.10: 3, 007: 4, true: 5, null: 6, 2026-11-26: 7, ~: 8}"
    assert list(parse(text)) == ["yes", "no", "1.10", "007", "true", "null", "2026-11-26", "~"]


@settings(deadline=None, max_examples=50)
@given(st.recursive(SCALARS | TEXTS, lambda inner: st.lists(inner) | st.dictionaries(TEXTS, inner)))
def test_what_is_written_is_read_back(tree: Any) -> None:
    for text in (dump(tree), dump_line(tree)):
        assert plain(parse(text)) == tree
    assert "\n" not in dump_line(tree)


@settings(deadline=None, max_examples=50)
@given(st.from_regex(NUMBERS, fullmatch=True))
@example("1e-05")
def test_a_number_is_written_as_it_was(text: str) -> None:
    assert dump_line(parse(text)) == text


@settings(deadline=None, max_examples=50)
@given(st.text(alphabet="yesnoYNtruefalsF0123456789.:-+eExXob_~ ", max_size=8))
def test_dumped_text_is_text_for_readers_of_yaml_1_1_too(text: str) -> None:
    assert yaml.safe_load(dump({"a": text})) == parse(dump({"a": text})) == {"a": text}


def test_few_lines_do_not_become_billions_of_values() -> None:
    bomb = "a0: &a0 [1, 1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))
    with pytest.raises(yaml.YAMLError, match="more than 100,000 values"):
        parse(bomb)
    merged = "a0: &a0 {k: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 60))
    with pytest.raises(yaml.YAMLError, match="more than 100,000 values"):
        parse(merged)


def test_an_override_changes_one_place_of_an_alias(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("data: {views: [text, code], sources: [&s {type: jsonl, path: a}, *s]}")
    config = load_config(path, ["data.sources.1.path=b"])
    assert [source.path for source in config.data.sources] == ["a", "b"]  # type: ignore[union-attr]


def test_a_setting_that_takes_text_gets_the_word(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        """
run: {folder: 1.10}
data:
  views: [no, 1.50]
  sources: [{type: csv, name: 007, path: 2026-11-26, fields: {no: true, 1.50: [1e3, 12:30]}, id: 0x1F}]
optimizer: {lr: 1e-4}
train: {steps: 1e3}
logging: {tensorboard: False}
"""
    )
    config = load_config(path, ["data.sources.0.label=1.0", "tokenizer.path=12.50"])
    source: Any = config.data.sources[0]
    assert (str(config.run.folder), config.data.views, config.tokenizer.path) == ("1.10", ("no", "1.50"), "12.50")
    assert (source.name, source.path, source.id, source.label) == ("007", "2026-11-26", "0x1F", "1.0")
    assert source.fields == {"no": "true", "1.50": ("1e3", "12:30")}
    assert (config.optimizer.lr, config.train.steps, config.logging.tensorboard) == (1e-4, 1000, False)
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml") == config


def test_a_number_is_no_text_where_a_number_is_wrong() -> None:
    with pytest.raises(DiptychError, match=r"train\.steps: input should be a valid integer"):
        load_config(None, ["train.steps=1.10"])


@pytest.mark.parametrize(
    ("wanted", "values", "others"),
    [
        ("no", ["no"], [False, "No", "false"]),
        ("1.10", ["1.10", 1.1], ["1.1", 1, True]),
        ("1.1", ["1.1", 1.1], ["1.10"]),
        ("007", ["007", 7], ["7", 70]),
        ("1", [1, "1", 1.0], ["1.0", "01", 2, None, True]),
        ("true", [True, "true", "True"], ["yes", "1", False, None, 1, 1.0]),
        ("'yes'", ["yes"], [True]),
        ("null", [None], ["", "null", 0]),
    ],
)
def test_rows_are_kept_by_the_word(tmp_path: Path, wanted: str, values: list[object], others: list[object]) -> None:
    path = tmp_path / "c.yaml"
    source = f"{{type: jsonl, path: a, keep: {{lang: {wanted}}}}}"
    path.write_text(f"data: {{views: [text, code], sources: [{source}]}}")
    for config in (load_config(path), load_config(path, [f"data.sources.0.keep.lang={wanted}"])):
        (tmp_path / "again.yaml").write_text(dump_config(config))
        for read in (config, load_config(tmp_path / "again.yaml")):
            keep = read.data.sources[0].keep["lang"]  # type: ignore[union-attr]
            assert all(same_word(value, keep) for value in values)
            assert not any(same_word(value, keep) for value in others)


def test_answers_of_a_task_are_words(tmp_path: Path) -> None:
    rows = [{"text": f"t {number}", "ok": ("yes", "no")[number % 2]} for number in range(4)]
    data = tmp_path / "yes_no.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / "task.yaml"
    own = "{fields: {code: ok}, answers: {yes: 1.10, no: True}, separator: 1e1}"
    path.write_text(f"data: {{train: {data}}}\ntask: {{name: sentiment, settings: {own}}}\n")
    config = load_config(path, [], FinetuneConfig)
    assert [example.gold for example in config.task.task().examples(data)] == ["1.10", "True"] * 2
    assert config.task.task().separator == "1e1"
    (tmp_path / "again.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "again.yaml", [], FinetuneConfig) == config
    assert config.data.sources[0].settings_["answers"] == {"yes": "1.10", "no": "True"}
    given = ["m", "--data", str(data), "--task", "sentiment", "task.answers={yes: 1.10, no: on}", "task.fields.code=ok"]
    del given[-1]
    assert make_task("sentiment", **read_arguments(given).settings).labels() == ("1.10", "on")


def test_a_pipeline_hands_on_words(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(
        f"""
folder: {tmp_path}/runs
sbatch: {{time: 24:00:00, account: 00123, mem: 1.50, nodes: 1, exclusive: true}}
environment: {{OMP_NUM_THREADS: 1, DEBUG: on}}
seeds: [0, 1]
settings: {{no: {{run.resume: auto}}, 1.10: {{optimizer.lr: 1e-4}}}}
pretrain:
  config: {Path(__file__).parents[3]}/configs/demo.yaml
  set: {{data.sources: [{{type: jsonl, path: x, fields: {{review: 1.10, paraphrase: no}}, keep: {{v: 1.10}}}}]}}
""".replace("{run.resume: auto}", "{optimizer.lr: 2e-4}")
    )
    pipeline = read_pipeline(path)
    runs = plan_runs(pipeline)["pretrain"]
    assert [run.name for run in runs] == ["no-seed0", "no-seed1", "1.10-seed0", "1.10-seed1"]
    assert [run.config.optimizer.lr for run in runs] == [2e-4, 2e-4, 1e-4, 1e-4]
    (tmp_path / "frozen.yaml").write_text(runs[0].text)
    for config in (runs[0].config, load_config(tmp_path / "frozen.yaml")):
        source: Any = config.data.sources[0]
        assert source.fields == {"review": "1.10", "paraphrase": "no"} and source.keep == {"v": "1.10"}
    (job,) = plan_jobs(pipeline, {"pretrain": runs})
    for line in ("time=24:00:00", "account=00123", "mem=1.50", "nodes=1", "exclusive"):
        assert f"#SBATCH --{line}\n" in job.script
    assert "OMP_NUM_THREADS=1\n" in job.script and "DEBUG=on\n" in job.script
