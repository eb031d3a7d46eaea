"""Labelled sets for probing: what they are read from, how classes are numbered, what is refused, and what is shared."""

import gzip
import http.server
import json
import re
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

import huggingface_hub
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.runtime.errors import DiptychError
from pretrain.sources import Files, ReviewsSource
from pretrain.sources import hub as hub_module
from pretrain.sources.synthetic.reviews import Draw, draw_meaning
from probes.sets import REGISTRY, LabelledSet, SetOptions, Split, find_overlaps, load_set, repository
from probes.sets.grammar import HELD_OUT, NUM_FRAMES, FramesOfOneSide
from probes.sets.overlaps import same_text_key
from probes.sets.rows import parse_label

T = TypeVar("T")
COMMIT = "0123456789" * 4


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows in the format of the path's ending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(list(rows)) if path.suffix in (".parquet", ".arrow") else None
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    elif path.suffix == ".arrow":
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    elif path.suffix in (".csv", ".tsv"):
        comma = "," if path.suffix == ".csv" else "\t"
        lines = [comma.join(rows[0]), *(comma.join(map(str, row.values())) for row in rows)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        text = "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def rows_of(*labels: Any, column: str = "text", start: str = "text") -> list[dict[str, Any]]:
    return [{column: f"{start} {number}", "label": label} for number, label in enumerate(labels)]


def folder_of(tmp_path: Path, train: Sequence[dict[str, Any]], test: Sequence[dict[str, Any]]) -> Path:
    write(tmp_path / "set" / "train.jsonl", train)
    write(tmp_path / "set" / "test.jsonl", test)
    return tmp_path / "set"


def problem(spec: Any, options: SetOptions | None = None) -> str:
    with pytest.raises(DiptychError) as caught:
        load_set(str(spec), options)
    message = str(caught.value)
    assert "\n" not in message and "data.sources" not in message
    return message


def made(name: str, train: Sequence[str], test: Sequence[str]) -> LabelledSet:
    splits = [Split(tuple(texts), np.arange(len(texts), dtype=np.int64) % 2) for texts in (train, test)]
    return LabelledSet(name, name, f"{name}.jsonl", ("a", "b"), splits[0], splits[1])


# --------------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("ending", ["jsonl", "jsonl.gz", "csv", "tsv", "parquet", "arrow"])
def test_a_folder_of_two_files_is_read_in_any_format(tmp_path: Path, ending: str) -> None:
    write(tmp_path / "mine" / f"train.{ending}", rows_of(1, 0, 1))
    write(tmp_path / "mine" / f"test.{ending}", rows_of(0, 1, start="other"))
    found = load_set(str(tmp_path / "mine"))
    assert (found.name, found.title, found.source) == ("mine", "mine", str(tmp_path / "mine"))
    assert (found.label_names, found.control, found.notes) == (("0", "1"), None, ())
    assert found.train.texts == ("text 0", "text 1", "text 2")
    assert found.train.labels.dtype == np.int64 and found.train.labels.tolist() == [1, 0, 1]
    assert found.test.texts == ("other 0", "other 1") and found.test.labels.tolist() == [0, 1]
    assert found.test.counts(2) == (1, 1)


def test_a_prefix_of_names_and_the_layout_of_the_hub_are_found(tmp_path: Path) -> None:
    write(tmp_path / "mine_train.jsonl", rows_of(1, 0))
    write(tmp_path / "mine_test.csv", rows_of(0, 1, start="other"))
    write(tmp_path / "other_train.jsonl", rows_of("x", "y"))
    assert load_set(str(tmp_path / "mine")).train.texts == ("text 0", "text 1")
    for number in range(2):
        write(tmp_path / "hub" / "data" / f"train-0000{number}-of-00002.parquet", rows_of(0, 1, start=f"part {number}"))
    write(tmp_path / "hub" / "data" / "validation-00000-of-00001.parquet", rows_of(1, 0, start="tested"))
    found = load_set(f"named={tmp_path / 'hub'}")
    assert found.train.texts == ("part 0 0", "part 0 1", "part 1 0", "part 1 1")
    assert (found.name, found.test.texts) == ("named", ("tested 0", "tested 1"))
    assert found.notes == ("there is no test split; validation is used",)


@pytest.mark.parametrize("name", ["whole.jsonl", "only/test.jsonl"])
def test_one_file_is_divided_by_a_hash_of_the_text(tmp_path: Path, name: str) -> None:
    rows = rows_of(*(number % 2 for number in range(1000)))
    path = write(tmp_path / name, rows)
    spec = path.parent if name.startswith("only") else path
    found = load_set(str(spec))
    assert found.name == spec.stem
    assert {*found.train.texts, *found.test.texts} == {row["text"] for row in rows}
    assert len(found.train) + len(found.test) == 1000 and 160 < len(found.test) < 240
    assert found.notes == (
        f"there is one split only: {len(found.test)} of 1,000 texts were made the test split by a hash of the text, "
        "whatever their class",
    )
    # The side of a text depends on nothing else, and texts that differ in case or space only are on one side.
    write(path, [{"text": f" {row['text'].upper()}!", "label": row["label"]} for row in rows[::-1][:500]])
    again = load_set(str(spec))
    tested = {same_text_key(text) for text in found.test.texts}
    assert {same_text_key(text) for text in again.test.texts} == tested & {f"text{n}" for n in range(500, 1000)}
    assert len(load_set(str(spec), SetOptions(test_share=0.5)).test) > 200


def test_columns_and_splits_can_be_named(tmp_path: Path) -> None:
    write(
        tmp_path / "a" / "fit.jsonl", [{"title": "T", "body": "B", "stars": 1}, {"title": "", "body": "C", "stars": 2}]
    )
    write(
        tmp_path / "a" / "held.jsonl",
        [{"title": None, "body": "D", "stars": 2}, {"title": "U", "body": "E", "stars": 1}],
    )
    write(tmp_path / "a" / "more.jsonl", [{}])
    options = SetOptions(text=("title", "body"), label="stars", train_split="fit", test_split="held")
    found = load_set(str(tmp_path / "a"), options)
    assert found.train.texts == ("T\nB", "C") and found.test.texts == ("D", "U\nE")
    assert (found.label_names, found.test.labels.tolist()) == (("1", "2"), [1, 0])
    many = [{"body": f"b{n}", "stars": n % 2} for n in range(20)]
    write(tmp_path / "a" / "fit.jsonl", many)
    same = SetOptions(text=("body",), label="stars", train_split="fit", test_split="fit", test_share=0.5)
    found = load_set(str(tmp_path / "a"), same)
    assert {*found.train.texts, *found.test.texts} == {row["body"] for row in many}
    for column in ("sentence", "review"):
        path = folder_of(tmp_path / column, rows_of(0, 1, column=column), rows_of(0, 1, column=column))
        assert load_set(str(path)).train.texts == ("text 0", "text 1")


def test_empty_texts_are_left_out_and_counted(tmp_path: Path) -> None:
    train = [*rows_of(0, 1), {"text": " \n", "label": 1}, {"text": None, "label": None}, {"text": "", "label": 0}]
    found = load_set(str(folder_of(tmp_path, train, [{"text": "", "label": 0}, *rows_of(0, 1)])))
    assert (len(found.train), len(found.test)) == (2, 2)
    assert found.notes == ("3 empty texts left out of train", "1 empty text left out of test")


def test_conflicting_labels_are_counted_and_kept(tmp_path: Path) -> None:
    train = [{"text": text, "label": label} for text, label in [("a", 0), ("a", 1), ("a", 1), ("b", 0), ("b", 0)]]
    found = load_set(str(folder_of(tmp_path, train, rows_of(0, 1))))
    assert len(found.train) == 5
    assert found.notes == ("1 train text occurs with more than one label",)


def test_large_splits_are_thinned_out_by_a_hash_of_the_text(tmp_path: Path) -> None:
    path = folder_of(tmp_path, rows_of(*(n % 2 for n in range(200))), rows_of(*(n % 2 for n in range(50)), start="o"))
    found = load_set(str(path), SetOptions(max_train=20, max_test=10))
    assert (len(found.train), len(found.test)) == (20, 10)
    assert found.notes == (
        "20 of 200 train texts are used, drawn by a hash of the text",
        "10 of 50 test texts are used, drawn by a hash of the text",
    )
    numbers = [int(text.split()[1]) for text in found.train.texts]
    assert numbers == sorted(numbers) and numbers != list(range(20))
    assert set(found.train.texts) < set(load_set(str(path), SetOptions(max_train=40)).train.texts)
    assert load_set(str(path), SetOptions(max_train=200)).notes == ()
    whole = load_set(str(path / "train.jsonl"), SetOptions(max_train=15, max_test=5))
    assert (len(whole.train), len(whole.test)) == (15, 5)


# -------------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("labels", "names", "numbers"),
    [
        ([10, 9, 2], ["2", "9", "10"], [2, 1, 0]),
        (["10", "9", " 2 "], ["2", "9", "10"], [2, 1, 0]),
        ([1.0, 0.0, "1.0"], ["0", "1"], [1, 0, 1]),
        (["good", "bad", "good"], ["bad", "good"], [1, 0, 1]),
        ([True, False, True], ["false", "true"], [1, 0, 1]),
        ([-1, 1, 0], ["-1", "0", "1"], [0, 2, 1]),
    ],
)
def test_labels_become_numbers_in_order(
    tmp_path: Path, labels: list[Any], names: list[str], numbers: list[int]
) -> None:
    found = load_set(str(folder_of(tmp_path, rows_of(*labels), rows_of(*labels, start="o"))))
    assert list(found.label_names) == names
    assert found.train.labels.tolist() == found.test.labels.tolist() == numbers


@given(st.lists(st.integers(-50, 50), min_size=2, unique=True), st.sampled_from([int, float, str]))
@settings(max_examples=30)
def test_any_spelling_of_whole_numbers_is_the_same_label(values: list[int], spelling: Any) -> None:
    assert [parse_label(spelling(value), "x:1") for value in values] == values


def test_a_column_beside_the_label_names_it(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "label": 1 - n % 2, "label_name": ["fine", "poor"][n % 2]} for n in range(4)]
    found = load_set(str(folder_of(tmp_path, rows, rows)))
    assert found.label_names == ("poor", "fine") and found.train.labels.tolist() == [1, 0, 1, 0]
    rows[2]["label_name"] = "poor"
    assert problem(folder_of(tmp_path, rows, rows)) == (
        f"{tmp_path}/set/train.jsonl:3: label 1 is called 'poor' here and 'fine' in {tmp_path}/set/train.jsonl:1; "
        "correct one"
    )
    same = [row | {"label_name": "fine"} for row in rows]
    assert "two labels are called 'fine'; correct the names" in problem(folder_of(tmp_path, same, same))


@pytest.mark.parametrize(
    ("labels", "line", "said"),
    [
        ([0, "9" * 5000], 2, "the label is a number of more than 18 digits; number the classes anew"),
        ([0, 10**30], 2, "the label is a number of more than 18 digits; number the classes anew"),
        ([0, 1e30], 2, "the label is a number of more than 18 digits; number the classes anew"),
        ([0, 0.5, 1], 2, "label 0.5 has a fraction, but a class is a whole number or a text; bin it"),
        ([0, "0.5"], 2, "label 0.5 has a fraction, but a class is a whole number or a text; bin it"),
        ([0, 1, float("inf")], 3, "label inf has a fraction, but a class is a whole number or a text; bin it"),
        ([float("nan"), 1], 1, "the label is missing; fill it or drop the row"),
        ([0, None], 2, "the label is missing; fill it or drop the row"),
        ([0, 1, ""], 3, "the label is missing; fill it or drop the row"),
        ([0, ["a"]], 2, "the label is of type list, but a class is a whole number or a text; convert it"),
        ([0, 1, "good"], 3, "label 'good' is a text, but others are numbers; use one kind"),
        ([0, 0], 0, "there is one class only (0), and nothing to tell apart; a probe needs two"),
    ],
)
def test_labels_that_are_no_classes_are_refused(tmp_path: Path, labels: list[Any], line: int, said: str) -> None:
    path = folder_of(tmp_path, rows_of(*labels), rows_of(0, 1) if line else rows_of(0))
    assert problem(path) == f"{path}/train.jsonl{f':{line}' if line else ''}: {said}"


def test_missing_labels_of_other_formats_are_refused(tmp_path: Path) -> None:
    for ending, missing in (("csv", "nan"), ("csv", ""), ("parquet", None), ("arrow", None)):
        path = write(tmp_path / f"a.{ending}", rows_of(0, missing, 1))
        assert problem(path).endswith(": the label is missing; fill it or drop the row")
        assert f"a.{ending}:{3 if ending == 'csv' else 2}: " in problem(path)


def test_a_test_split_without_labels_is_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path, rows_of(0, 1), [{"text": "a"}, {"text": "b"}])
    assert problem(path) == (
        f"{path}/test.jsonl:1: no column 'label', so there are no labels; it has text; name the column of the labels "
        "with --label"
    )
    path = folder_of(tmp_path, rows_of(0, 1), rows_of(-1, -1))
    assert problem(path) == (
        f"{path}/test.jsonl: the test split has no labels (all are -1, as where they are kept secret); name a split "
        "that has some with --test-split, such as validation"
    )


def test_splits_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = folder_of(tmp_path, rows_of(0, 1), rows_of(0, 2, 1))
    assert problem(path).startswith(f"{path}/train.jsonl: the train split has 2 texts for 3 classes; add texts, or")
    path = folder_of(tmp_path, rows_of(0, 1, 2), rows_of(0))
    assert problem(path).startswith(f"{path}/test.jsonl: the test split has 1 text for 3 classes; add texts, or")
    path = folder_of(tmp_path, rows_of(0, 1, 1), rows_of(0, 1, 2))
    assert problem(path) == (
        f"{path}/test.jsonl:3: class '2' is in test but not in train, so it cannot be learned; add it to train or drop "
        "it from test"
    )
    path = folder_of(tmp_path, rows_of(0, 1), [{"text": " ", "label": 0}])
    assert problem(path) == f"{path}/test.jsonl: the test split has no texts; add some or name another split"
    path = folder_of(tmp_path, [], rows_of(0, 1))
    assert problem(path) == f"{path}: the train split has no texts; add some or name another split"


# ---------------------------------------------------------------------------------------------------- wrong specs, rows


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    assert problem("no_such_set").startswith(
        "no_such_set: no set of this name and no such path; registered are reviews, rotten_tomatoes, sst2, sst5, imdb, "
    )
    assert "no such file or folder" in problem(tmp_path / "gone")
    assert "no such file or folder" in problem(f"imdb={tmp_path / 'gone' / 'deep'}")
    (tmp_path / "empty").mkdir()
    assert problem(tmp_path / "empty").startswith(
        f"{tmp_path}/empty: holds no data files; name train and test files (.jsonl"
    )
    (tmp_path / "notes.txt").write_text("x")
    assert problem(tmp_path / "notes.txt").startswith(f"{tmp_path}/notes.txt: no format that can be read; convert it")
    path = folder_of(tmp_path, rows_of(0, 1), rows_of(0, 1))
    assert problem(path, SetOptions(test_split="dev")) == f"{path}: no split 'dev'; it has test, train"
    assert problem(path / "train.jsonl", SetOptions(test_split="test")) == (
        f"{path}/train.jsonl: is one file, which has no named splits; leave --train-split and --test-split out"
    )
    write(path / "train.csv", rows_of(0, 1))
    assert problem(path) == (f"{path}/train.jsonl: split 'train' is in train.csv as well; remove one, or name the file")
    write(tmp_path / "odd" / "a.jsonl", rows_of(0, 1))
    write(tmp_path / "odd" / "b.jsonl", rows_of(0, 1))
    assert problem(tmp_path / "odd") == f"{tmp_path}/odd: no split 'train'; it has a, b; name one with --train-split"
    write(tmp_path / "odd" / "train.jsonl", rows_of(0, 1))
    assert problem(tmp_path / "odd") == (
        f"{tmp_path}/odd: no split 'test'; it has a, b, train; name one with --test-split"
    )


def test_rows_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "label": 0}\n{broken\n')
    assert problem(path).startswith(f"{path}:2: invalid JSON at column 2")
    write(path, [{"text": 3, "label": 0}])
    assert problem(path).startswith(f"{path}:1: column 'text' is no text but of type int; name the column")
    path.write_text('{"text": "\\ud83d", "label": 0}\n')
    assert problem(path).startswith(f"{path}:1: column 'text' holds half a surrogate pair")
    path.write_bytes(b"a\0b")
    assert problem(path).endswith("this looks like a binary file; check the path")
    write(path, [{"body": "a", "label": 0}])
    assert problem(path) == (
        f"{path}:1: no column 'text' or 'sentence' or 'review'; it has body, label; name the column of the texts with "
        "--text"
    )
    table = write(tmp_path / "a.parquet", [{"body": "a", "label": 0}])
    assert problem(table, SetOptions(text=("title", "body"))).startswith(f"{table}: no column 'title' + 'body'; it has")
    table.write_bytes(b"PAR1 cut short")
    assert problem(table).startswith(f"{table}: is no complete Parquet file")


def test_columns_and_keys_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    table = pa.table([pa.array(["a"]), pa.array([0]), pa.array([1])], names=["text", "label", "label"])
    pq.write_table(table, tmp_path / "train.parquet")
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0, "label": 1}\n')
    (tmp_path / "train.csv").write_text("text,label,label\na,0,1\n")
    for ending in ("parquet", "jsonl", "csv"):
        with pytest.raises(DiptychError, match=f"train.{ending}.*'label' is there twice; rename one"):
            load_set(str(tmp_path / f"train.{ending}"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"test_share": 1.0}, "test_share: 1.0 is not between 0 and 1"),
        ({"test_share": float("nan")}, "test_share: nan is not between 0 and 1"),
        ({"max_train": 0}, "max_train: 0 is less than 1"),
        ({"reviews_count": 0}, "reviews_count: 0 is less than 1"),
        ({"text": ("",)}, "text: a column has no name"),
    ],
)
def test_options_are_checked(options: dict[str, Any], said: str) -> None:
    with pytest.raises(DiptychError, match=re.escape(said)):
        SetOptions(**options)


# ------------------------------------------------------------------------------------------------------------- registry


def test_the_registry_has_what_it_says() -> None:
    assert list(REGISTRY) == [
        "rotten_tomatoes",
        "sst2",
        "sst5",
        "imdb",
        "yelp_polarity",
        "yelp_full",
        "amazon_polarity",
        "tweet_eval_sentiment",
        "mpqa",
        "cr",
        "subj",
    ]
    assert [name for name, known in REGISTRY.items() if known.control] == ["subj"]
    assert [name for name, known in REGISTRY.items() if known.lines] == ["mpqa", "cr", "subj"]
    for known in REGISTRY.values():
        assert re.fullmatch("[0-9a-f]{40}", known.revision)


def test_local_files_under_a_registered_name_mean_the_same(tmp_path: Path) -> None:
    rows = [{"title": f"t{n}", "content": f"c{n}", "label": n % 2} for n in range(4)]
    found = load_set(f"amazon_polarity={folder_of(tmp_path, rows, rows)}")
    assert (found.name, found.title) == ("amazon_polarity", "Amazon polarity")
    assert found.label_names == ("negative", "positive") and found.train.texts[0] == "t0\nc0"
    folder = folder_of(tmp_path, rows_of(0, 1), rows_of(0, 1))
    controls = [load_set(f"{name}={folder}").control for name in ("subj", "rotten_tomatoes", "other")]
    assert controls == [True, False, None]
    five = rows_of(*range(5))
    assert load_set(f"sst5={folder_of(tmp_path, five, five)}").label_names == (
        "very negative",
        "negative",
        "neutral",
        "positive",
        "very positive",
    )
    named = [row | {"label_text": REGISTRY["sst5"].naming.names[row["label"]]} for row in five]
    binary = load_set(f"sst2={folder_of(tmp_path, named, named)}")
    assert binary.label_names == ("negative", "positive") and binary.train.labels.tolist() == [0, 0, 1, 1]
    assert binary.notes == ("1 train text of other classes left out", "1 test text of other classes left out")


def test_files_under_a_registered_name_lie_as_on_the_hub(tmp_path: Path) -> None:
    write(tmp_path / "plain_text" / "train.jsonl", rows_of(0, 1))
    write(tmp_path / "plain_text" / "test.jsonl", rows_of(0, 1))
    assert load_set(f"imdb={tmp_path}").label_names == ("negative", "positive")


def test_classes_that_look_wrong_are_noted(tmp_path: Path) -> None:
    five = folder_of(tmp_path / "five", rows_of(*range(5)), rows_of(*range(5)))
    assert load_set(f"rotten_tomatoes={five}").notes == (
        "has the classes 0, 1, 2, 3, 4, but Rotten Tomatoes has negative, positive",
    )
    cased = folder_of(tmp_path / "cased", rows_of("Pos", "pos"), rows_of("Pos", "pos"))
    assert load_set(str(cased)).notes == ("labels that differ in case alone count as different classes",)
    many = folder_of(tmp_path / "many", rows_of(*range(1001)), rows_of(0, 1))
    assert problem(many).endswith("1,001 classes; 1,000 are the most: name the column of the classes with --label")


# ------------------------------------------------------------------------------------------------------------------ hub


def test_a_hub_that_cannot_be_reached_says_how_to_pass_a_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    message = problem("cr=hub:SetFit/SentEval-CR")
    assert message.startswith("hub:SetFit/SentEval-CR: the hub cannot be asked for its newest revision (")
    assert message.endswith(
        "download it where there is a network with `hf download SetFit/SentEval-CR --repo-type dataset --local-dir "
        "DIR` and pass the folder of its files as cr=DIR"
    )
    message = problem("rotten_tomatoes")
    assert message.startswith("cornell-movie-review-data/rotten_tomatoes/train: the hub cannot be reached (")
    assert f"--revision {REGISTRY['rotten_tomatoes'].revision} --local-dir DIR` and pass" in message
    assert message.endswith("as rotten_tomatoes=DIR")
    assert problem("hub:owner/name@v1").endswith(
        "--revision v1 --local-dir DIR` and pass the folder of its files as name=DIR"
    )
    assert problem("hub:a/b/c") == "hub:a/b/c: is no name on the hub; write hub:owner/name@revision#config"


def test_a_hub_that_can_be_reached_is_read_at_one_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = {
        split: write(tmp_path / f"{split}.arrow", rows_of(0, 1, 1, column="sentence", start=split))
        for split in ("train", "test")
    }
    loaded = []

    def load(dataset: str, config: str | None, split: str, revision: str | None, *, streaming: bool) -> Any:
        loaded.append((dataset, config, split, revision))
        if split not in paths:
            raise ValueError(f'Unknown split "{split}".')
        info = SimpleNamespace(builder_name="parquet")
        return SimpleNamespace(cache_files=[{"filename": str(paths[split])}], info=info)

    monkeypatch.setattr(hub_module, "_load", load)
    monkeypatch.setattr(hub_module.HubSource, "_probe", lambda self: None)
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, name, *, revision, timeout: SimpleNamespace(sha=COMMIT)
    )
    found = load_set("mpqa=hub:jxm/mpqa")
    assert loaded == [("jxm/mpqa", None, "train", COMMIT), ("jxm/mpqa", None, "test", COMMIT)]
    assert found.source == f"hub:jxm/mpqa@{COMMIT} (not pinned)" and found.label_names == ("negative", "positive")
    assert found.notes == (
        f"the revision is not pinned; {COMMIT} is the newest of the main branch today, and another may be tomorrow",
    )
    assert found.train.texts == ("train 0", "train 1", "train 2") and found.test.labels.tolist() == [0, 1, 1]
    pinned = load_set(f"hub:owner/name@{COMMIT[::-1]}#part")
    assert (pinned.name, pinned.notes) == ("name", ())
    assert pinned.source == f"hub:owner/name@{COMMIT[::-1]}#part"
    assert loaded[-1] == ("owner/name", "part", "test", COMMIT[::-1])
    assert problem(f"hub:owner/name@{COMMIT}", SetOptions(test_split="dev")) == (
        'owner/name/dev: cannot be read (Unknown split "dev".); check the name, the configuration and the split'
    )


# -------------------------------------------------------------------------------------------------------------- grammar


@pytest.fixture(scope="module")
def reviews() -> LabelledSet:
    return load_set("reviews", SetOptions(reviews_count=2000))


def test_reviews_have_different_meanings_in_train_and_test(reviews: LabelledSet) -> None:
    assert reviews.control is False
    assert (len(reviews.train), len(reviews.test), reviews.label_names) == (1600, 400, ("negative", "positive"))
    assert len({*reviews.train.texts, *reviews.test.texts}) == 2000
    assert min(reviews.test.counts(2)) > 160
    meanings: dict[Any, None] = {}
    for index in range(3000):
        meanings.setdefault(draw_meaning(Draw(f"probed reviews/0/{index}/meaning")))
    expected = [meaning.label for meaning in meanings][:2000]
    assert [*reviews.test.labels.tolist(), *reviews.train.labels.tolist()] == expected


def test_no_frame_of_a_test_review_is_in_train(monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[bool, set[str]] = {True: set(), False: set()}
    pick = FramesOfOneSide.pick

    def recorded(self: FramesOfOneSide, options: Sequence[T]) -> T:
        picked = pick(self, options)
        text = getattr(picked, "text", picked)
        if "{" in str(text):
            used[self._held_out].add(str(text))
        return picked

    monkeypatch.setattr(FramesOfOneSide, "pick", recorded)
    load_set("reviews", SetOptions(reviews_count=4000, test_share=0.4))
    assert used[True] <= HELD_OUT and not used[False] & HELD_OUT
    assert (len(HELD_OUT), NUM_FRAMES) == (93, 278)
    assert len(used[True]) > 85 and len(used[False]) > 175


def test_reviews_are_no_records_of_a_corpus(reviews: LabelledSet) -> None:
    source = ReviewsSource(count=2000)
    corpus = {text for part in source.parts(Files()) for record in source.read(part) for text in record.views["review"]}
    assert not corpus & {*reviews.train.texts, *reviews.test.texts}


def test_reviews_depend_on_the_seed_and_are_always_the_same(reviews: LabelledSet) -> None:
    assert load_set("reviews", SetOptions(reviews_count=2000)).fingerprint == reviews.fingerprint
    other = load_set("reviews", SetOptions(reviews_count=100, reviews_seed=1))
    assert not set(other.train.texts) & set(reviews.train.texts)
    assert other.source == "reviews (count 100, seed 1)"
    assert "93 of the grammar's 278 sentence frames word the test split, the others train" in reviews.notes
    assert problem("reviews", SetOptions(reviews_count=2)).startswith("reviews_count: 2 meanings leave a split without")


# ------------------------------------------------------------------------------------------------------------- overlaps


def test_overlaps_are_found_whatever_case_and_punctuation() -> None:
    one = made("one", ["A good film.", "bad", "odd", "!!!"], ["a GOOD  film", "fine", "?!"])
    two = made("two", ["Fine !", "fine", "new"], ["A-good-film", "bad", "Good"])
    assert find_overlaps([one, two]) == {
        "one": (
            "1 of 3 test texts is in its own train split",
            "1 of 3 test texts is in two/train",
            "1 of 3 test texts is in two/test",
            "2 of 4 train texts are in two/test",
        ),
        "two": (
            "2 of 3 test texts are in one/train",
            "1 of 3 test texts is in one/test",
            "2 of 3 train texts are in one/test",
        ),
    }
    assert find_overlaps([two]) == {"two": ()}
    with pytest.raises(DiptychError, match=r"one: two sets have this name; give one another, as in other=one.jsonl"):
        find_overlaps([one, one])


def test_the_fingerprint_is_of_texts_and_labels() -> None:
    one = made("one", ["a", "b"], ["c", "d"])
    assert one.fingerprint == made("other", ["a", "b"], ["c", "d"]).fingerprint
    assert re.fullmatch("[0-9a-f]{64}", one.fingerprint)
    for other in (["b", "a"], ["a", "b", "c"], ["ab", ""]):
        assert made("one", other, ["c", "d"]).fingerprint != one.fingerprint
    moved = LabelledSet("one", "one", "", ("a", "b"), Split(("a", "b"), np.array([1, 0])), one.test)
    assert moved.fingerprint != one.fingerprint


# ------------------------------------------------------------------------------------------------------------ real data


def test_real_sets_share_what_is_known_of_them(shared: Path) -> None:
    data = shared / "data"
    sets = {name: load_set(f"{name}={data / name}") for name in ("rotten_tomatoes", "sst2", "sst5", "mpqa", "subj")}
    assert {name: (len(found.train), len(found.test)) for name, found in sets.items()} == {
        "rotten_tomatoes": (8530, 1066),
        "sst2": (6920, 1821),
        "sst5": (8544, 2210),
        "mpqa": (8560, 2043),
        "subj": (8001, 1999),
    }
    assert sets["sst5"].test.counts(5) == (279, 633, 389, 510, 399)
    assert sets["subj"].label_names == ("subjective", "objective") and sets["subj"].control
    assert sets["mpqa"].notes == ("80 train texts occur with more than one label",)
    shared_texts = find_overlaps(list(sets.values()))
    # 762 where texts of up to twelve characters are left out, which is "no surprises" here.
    assert "763 of 1,066 test texts are in sst2/train" in shared_texts["rotten_tomatoes"]
    assert "331 of 1,066 test texts are in subj/train" in shared_texts["rotten_tomatoes"]
    assert "1,496 of 1,821 test texts are in rotten_tomatoes/train" in shared_texts["sst2"]
    assert "666 of 1,999 test texts are in rotten_tomatoes/train" in shared_texts["subj"]
    # What the registry makes of SST-5 is SST-2.
    derived = load_set(f"sst2={data / 'sst5'}")
    assert derived.fingerprint == sets["sst2"].fingerprint
    assert derived.notes == ("1,624 train texts of other classes left out", "389 test texts of other classes left out")


def test_a_real_set_of_one_file_is_divided(shared: Path) -> None:
    found = load_set(f"yelp_full={shared / 'data' / 'yelp5'}")
    assert found.label_names == ("Very Bad", "Bad", "Mediocre", "Good", "Very Good")
    assert (len(found.train), found.test.counts(5)) == (1596, (82, 82, 84, 89, 67))


# --------------------------------------------------------------------------------------------------------------- GitHub


@pytest.fixture
def github(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[tuple[Path, http.server.HTTPServer]]:
    """A folder that is served as GitHub serves repositories."""
    folder = tmp_path / "github"
    folder.mkdir()
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    monkeypatch.setattr(repository, "_HOST", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield folder, server
    server.shutdown()
    server.server_close()
    thread.join(10)


def serve(folder: Path, name: str, **files: bytes) -> None:
    known = REGISTRY[name]
    for path in known.lines:
        target = folder / known.dataset / known.revision / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(files[Path(path).name.replace(".", "_")])


def labels_of(found: LabelledSet) -> dict[str, int]:
    splits = (found.train, found.test)
    return {text: label for split in splits for text, label in zip(split.texts, split.labels.tolist(), strict=True)}


def test_lines_of_a_repository_are_a_set_and_are_kept(
    github: tuple[Path, http.server.HTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, server = github
    bad, good = ([f"{word} {n}" for n in range(30)] for word in ("bad", "good"))
    monkeypatch.setitem(REGISTRY, "mpqa", replace(REGISTRY["mpqa"], num_texts=60))
    serve(folder, "mpqa", mpqa_neg="\n".join(bad).encode(), mpqa_pos="\n".join([*good, " ", ""]).encode())
    found = load_set("mpqa")
    assert found.source == "github:harvardnlp/sent-conv-torch@7917668a7bf647fc9e7b02bdbc40d8ab5567ea67"
    assert (found.title, found.label_names, found.control) == ("MPQA", ("negative", "positive"), False)
    said = labels_of(found)
    assert said == {text: 0 for text in bad} | {text: 1 for text in good} and len(found.test) > 4
    assert any("there is one split only" in note for note in found.notes)
    server.shutdown()  # what was downloaded needs no network
    server.server_close()
    assert load_set("mpqa").fingerprint == found.fingerprint


def test_lines_that_begin_with_their_class_in_two_encodings(
    github: tuple[Path, http.server.HTTPServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY, "subj", replace(REGISTRY["subj"], num_texts=43))
    lines = [f"{n % 2} text {n}".encode() for n in range(40)]
    lines += [
        b"0  . . . a joke",
        "0 un h\u00e9ros".encode(),
        "1 moli\u00e8re ".encode() + "\u2013 a film ".encode("cp1252"),
    ]
    serve(github[0], "subj", subj_all=b"\n".join([*lines, b""]))
    found = load_set("subj")
    assert found.label_names == ("subjective", "objective") and found.control
    said = labels_of(found)
    assert len(said) == 43 and said["text 3"] == 1 and said["text 4"] == 0
    assert (said[". . . a joke"], said["un h\u00e9ros"], said["moli\u00e8re \u2013 a film"]) == (0, 0, 1)


def test_a_page_in_place_of_the_lines_is_refused_and_says_what_to_delete(
    github: tuple[Path, http.server.HTTPServer], tmp_path: Path
) -> None:
    serve(github[0], "cr", custrev_neg=b"<html>busy</html>", custrev_pos=b"<html>busy</html>")
    kept = tmp_path / "home" / "diptych" / REGISTRY["cr"].dataset / REGISTRY["cr"].revision / "data"
    assert problem("cr") == (
        "cr: 2 texts where there should be about 3,775; what was downloaded is damaged: delete "
        f"{kept}/custrev.neg {kept}/custrev.pos to download it again"
    )


def test_a_repository_that_cannot_be_reached_says_what_to_do(
    github: tuple[Path, http.server.HTTPServer], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    message = problem("cr")  # the server does not have it
    path = "harvardnlp/sent-conv-torch/7917668a7bf647fc9e7b02bdbc40d8ab5567ea67/data/custrev.neg"
    assert f"/{path}: cannot be downloaded (HTTP Error 404: File not found); download it where there is a " in message
    assert message.endswith(
        f"to {tmp_path}/home/diptych/{path}, or pass a folder of files with texts and labels as cr=DIR"
    )
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "cannot be downloaded (HF_HUB_OFFLINE is set)" in problem("cr")
    assert not list((tmp_path / "home").rglob("*.*"))
    assert problem("cr", SetOptions(test_split="dev")) == (
        "cr: has no named splits; leave --train-split and --test-split out"
    )
