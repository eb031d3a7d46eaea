"""Preparing a corpus: a function of its inputs, exact counts, and bad input that stops with its place and a remedy."""

import hashlib
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain import corpus as corpus_module
from pretrain.command import run_command
from pretrain.config import Config
from pretrain.config_file import load_config
from pretrain.corpus import Corpus, read_corpus
from pretrain.errors import DiptychError
from pretrain.prepare import _inputs, longest_view, main, prepare
from pretrain.sources import JsonlSource, MessagesSource
from pretrain.tokenizer import load

ANIMALS = ("cat", "dog", "heron", "café owner", "fox")


def sentences(count: int, start: int = 0) -> list[tuple[str, str]]:
    return [
        (f"the {ANIMALS[n % 5]} sat on mat {n}", f"on mat {n}, quietly, a {ANIMALS[n % 5]} was found sitting")
        for n in range(start, start + count)
    ]


def write_pairs(path: Path, pairs: list[tuple[str, str]], **extra: Any) -> Path:
    lines = [json.dumps({"text": text, "code": code, **extra}, ensure_ascii=False) for text, code in pairs]
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def config_for(folder: Path, source: Path, *overrides: str, kind: str = "jsonl") -> Config:
    return load_config(
        None,
        [
            f"data.sources=[{{type: {kind}, path: '{source}'}}]",
            "data.views=[text, code]",
            "data.heldout_fraction=0.2",
            f"data.folder='{folder}'",
            "tokenizer.vocab_size=320",
            *overrides,
        ],
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_pairs(tmp_path / "pairs.jsonl", sentences(120))


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def texts(corpus: Corpus) -> dict[str, list[tuple[str, str]]]:
    tokenizer = load(str(corpus.folder / "tokenizer"), load_config(None).tokenizer)
    found = {}
    for name in ("train", "heldout"):
        split = getattr(corpus, name)
        views = [split.views(index) for index in range(len(split))]
        found[name] = [(tokenizer.decode(first.tokens), tokenizer.decode(second.tokens)) for first, second in views]
    return found


# ------------------------------------------------------------------------------------------------ function of inputs


def test_the_same_input_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    one, two = (prepare(config_for(tmp_path / name, source), quiet=True) for name in ("one", "two"))
    assert one.name == two.name
    assert contents(one) == contents(two)


def test_an_unchanged_input_is_not_prepared_again(tmp_path: Path, source: Path) -> None:
    config = config_for(tmp_path / "data", source)
    folder = prepare(config, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    moved = source.rename(tmp_path / "moved.jsonl")  # the same bytes elsewhere are the same input
    assert prepare(config_for(tmp_path / "data", moved), quiet=True) == folder
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_a_changed_input_goes_to_another_folder_and_leaves_the_old_one(tmp_path: Path, source: Path) -> None:
    config = config_for(tmp_path / "data", source)
    folder = prepare(config, quiet=True)
    before = contents(folder)
    write_pairs(source, sentences(121))
    assert prepare(config, quiet=True) != folder
    assert contents(folder) == before
    assert len(list((tmp_path / "data").iterdir())) == 2  # and nothing half-done beside them


@pytest.mark.parametrize(
    "override",
    [
        "data.views=[code, text]",
        "data.heldout_fraction=0.3",
        "data.max_view_tokens=9",
        "tokenizer.vocab_size=330",
        "tokenizer.algorithm=unigram",
        "tokenizer.predictor_tokens=2",
        "packing.row_length=128",
        "packing.layout=conditional",
        "data.sources.0.keep.text=x",
    ],
)
def test_every_setting_that_decides_tokens_decides_the_folder(tmp_path: Path, source: Path, override: str) -> None:
    assert _inputs(config_for(tmp_path, source)) != _inputs(config_for(tmp_path, source, override))


@pytest.mark.parametrize(
    "override", ["run.seed=3", "objective.predictors=2", "model.fields.hidden_size=8", "run.folder=x"]
)
def test_other_settings_share_the_corpus(tmp_path: Path, source: Path, override: str) -> None:
    assert _inputs(config_for(tmp_path, source)) == _inputs(config_for(tmp_path, source, override))


def test_other_users_may_read_the_corpus(tmp_path: Path, source: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = prepare(config_for(tmp_path / "data", source), quiet=True)
    finally:
        os.umask(before)
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & stat.S_IROTH, path


# ------------------------------------------------------------------------------------------------ what is in the files


def test_every_record_is_in_one_split_by_the_hash_of_its_text(tmp_path: Path, source: Path) -> None:
    pairs = sentences(120)
    found = texts(read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True)))

    def held(pair: tuple[str, str]) -> bool:
        digest = hashlib.sha256("\0".join(pair).encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64 < 0.2

    assert found["heldout"] == [pair for pair in pairs if held(pair)]
    assert found["train"] == [pair for pair in pairs if not held(pair)]
    assert set(found["heldout"]).isdisjoint(found["train"])


def test_equal_records_fall_on_one_side(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", sentences(60) + sentences(60))
    found = texts(read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True)))
    assert set(found["heldout"]).isdisjoint(found["train"])
    assert len(found["heldout"]) == 2 * len(set(found["heldout"]))


def test_held_out_sources_are_taken_whole(tmp_path: Path, source: Path) -> None:
    test = write_pairs(tmp_path / "test.jsonl", sentences(7, start=500))
    override = f"data.heldout_sources=[{{type: jsonl, path: '{test}'}}]"
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, override), quiet=True))
    assert (len(corpus.train), len(corpus.heldout)) == (120, 7)
    assert corpus.manifest["records_per_source"] == [120, 7]
    assert corpus.heldout.place(3) == f"{test}:4"


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over several Arrow chunks, so that a record is found across their borders."""
    monkeypatch.setattr(corpus_module, "CHUNK", 16)
    config = config_for(tmp_path / "data", source)
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    by_place = {f"{source}:{number}": pair for number, pair in enumerate(sentences(120), start=1)}
    for split in (corpus.train, corpus.heldout):
        for index in range(len(split)):
            pair = by_place.pop(split.place(index))
            for which, view in enumerate(split.views(index)):
                assert list(view.tokens) == tokenizer.encode_batch([pair[which]])[0]
                assert view.complete and len(view.tokens) == split.lengths[index, which]
                assert split.num_bytes[index, which] == len(pair[which].encode())
    assert not by_place


def test_the_manifest_counts_what_is_there(tmp_path: Path, source: Path) -> None:
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, "data.max_view_tokens=12"), quiet=True))
    for name in ("train", "heldout"):
        split, counts = getattr(corpus, name), corpus.manifest["splits"][name]
        assert counts == {
            "records": len(split),
            "first_tokens": split.lengths[:, 0].sum(),
            "second_tokens": split.lengths[:, 1].sum(),
            "first_bytes": split.num_bytes[:, 0].sum(),
            "second_bytes": split.num_bytes[:, 1].sum(),
            "first_truncated": (~split.complete[:, 0]).sum(),
            "second_truncated": (~split.complete[:, 1]).sum(),
        }
    assert corpus.manifest["paths"] == [str(source)]
    assert set(corpus.manifest["files"]) == set(contents(corpus.folder)) - {"manifest.json"}


def test_a_long_view_is_cut_and_counted(tmp_path: Path) -> None:
    pairs = sentences(60)
    pairs[5] = ("the cat sat on mat " + "and é sat " * 40, "short")
    source = write_pairs(tmp_path / "pairs.jsonl", pairs)
    override = f"data.heldout_sources=[{{type: jsonl, path: '{source}'}}]"
    config = config_for(tmp_path / "data", source, "data.max_view_tokens=30", override)
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    first, second = corpus.train.views(5)
    whole = tokenizer.encode_batch([pairs[5][0]])[0]
    assert len(whole) > 30 and list(first.tokens) == whole[:30] and not first.complete
    assert second.complete
    assert corpus.train.num_bytes[5, 0] == len(tokenizer.decode(whole[:30]).encode()) < len(pairs[5][0].encode())
    lengths = [len(ids) for pair in pairs for ids in tokenizer.encode_batch(pair)]
    counts = corpus.manifest["splits"]["train"]
    assert counts["first_truncated"] + counts["second_truncated"] == sum(length > 30 for length in lengths) >= 1
    assert np.all(corpus.train.lengths <= 30)


def test_views_are_cut_to_what_a_row_takes_by_default(tmp_path: Path, source: Path) -> None:
    config = config_for(tmp_path, source, "packing.row_length=64", "packing.layout=independent")
    assert longest_view(config) == (64 - 2 - 4) // 2  # two bos, four reserved predictors
    config = config_for(tmp_path, source, "packing.row_length=64", "packing.layout=conditional")
    assert longest_view(config) == (64 - 2 - 4) // 3


# ----------------------------------------------------------------------------------------------------------- sources


def test_jsonl_maps_fields_to_views_and_keeps_only_what_is_asked(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        {"q": "one", "a": "1", "ok": True},
        {"q": "two", "a": "2", "ok": False},
        {"q": "three", "a": "3", "ok": True},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    source = JsonlSource(type="jsonl", path=path, fields={"text": "q", "code": "a"}, keep={"ok": True})
    assert [(dict(record.views), record.place) for record in source.records()] == [
        ({"text": "one", "code": "1"}, f"{path}:1"),
        ({"text": "three", "code": "3"}, f"{path}:5"),
    ]


def chat(user: str, assistant: str) -> dict[str, Any]:
    contents = [("system", "Translate."), ("user", user), ("assistant", assistant)]
    return {"messages": [{"role": role, "content": content} for role, content in contents]}


def test_messages_give_the_same_corpus_as_jsonl(tmp_path: Path, source: Path) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text("\n".join(json.dumps(chat(*pair)) for pair in sentences(120)))
    plain = read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True))
    other = read_corpus(prepare(config_for(tmp_path / "data", chats, kind="messages"), quiet=True))
    assert plain.folder != other.folder
    assert texts(plain) == texts(other)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "no list of objects under 'messages'; use type: jsonl for named fields"),
        ({"messages": ["a"]}, "no list of objects under 'messages'"),
        ({"messages": [{"role": "user", "content": "a"}]}, "0 messages with role 'assistant', expected exactly one"),
        ({"messages": chat("a", "b")["messages"] * 2}, "2 messages with role 'user', expected exactly one"),
        (chat("a", ""), "view 'code' is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "view 'text' is no string but NoneType"),
    ],
)
def test_a_chat_of_another_shape_is_refused_by_its_line(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps(chat("a", "b")) + "\n" + json.dumps(row))
    with pytest.raises(DiptychError) as caught:
        list(MessagesSource(type="messages", path=path).records())
    assert str(caught.value).startswith(f"{path}:2: {message}")


# --------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"text": "a"}', "no field 'code' for view 'code'; it has text"),
        (b'{"text": "a", "code": ', "invalid JSON at column 23: Expecting value"),
        (b'{"text": "caf\xe9", "code": "b"}', "byte 14 of the line is not valid UTF-8; convert the file to UTF-8"),
        (b'{"text": "a", "code": " \\n"}', "view 'code' is empty; drop the record or fill it"),
        (b'{"text": ["a"], "code": "b"}', "view 'text' is no string but list: \"['a']\""),
        (b'{"text": "a", "code": null}', "view 'code' is no string but NoneType: 'None'"),
        (b'{"text": "\\ud83d", "code": "b"}', "view 'text' holds half a surrogate pair"),
        (b'["a", "b"]', "expected a JSON object, found list"),
        (b'"a"', "expected a JSON object, found str"),
    ],
)
def test_a_bad_line_stops_with_its_place(tmp_path: Path, source: Path, line: bytes, message: str) -> None:
    rows = source.read_bytes().splitlines()
    rows[40] = line
    source.write_bytes(b"\n".join(rows))
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", source), quiet=True)
    assert str(caught.value).startswith(f"{source}:41: {message}")
    assert not list((tmp_path / "data").iterdir())  # nothing half-done stays


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", tmp_path / "nowhere.jsonl"), quiet=True)
    assert (
        str(caught.value) == f"{tmp_path}/nowhere.jsonl: cannot be read (No such file or directory); check data.sources"
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenizer.vocab_size=5000"], "tokenizer.vocab_size: 5000 is more than the corpus gives with bpe: set"),
        (["tokenizer.vocab_size=100"], "tokenizer.vocab_size: 100 is too small"),
        (
            ["data.max_view_tokens=500"],
            "data.max_view_tokens: 500 tokens a view do not fit packing.row_length 256 in the independent layout; the "
            "most is 125",
        ),
        (
            ["packing.row_length=8", "packing.layout=conditional"],
            "data.max_view_tokens: 1 tokens a view do not fit packing.row_length 8 in the conditional layout; the most "
            "is 0",
        ),
        (["data.heldout_fraction=0"], "data.heldout_fraction: 0.0 leaves 0 held-out records, evaluation needs 2"),
        (["data.sources.0.keep.text=nothing"], "tokenizer: no text to train on"),
        (["tokenizer.path=/nowhere"], "tokenizer.path: /nowhere: no such folder"),
    ],
)
def test_settings_that_the_data_cannot_meet_are_refused(
    tmp_path: Path, source: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", source, "packing.layout=independent", *overrides), quiet=True)
    assert str(caught.value).startswith(message)


def test_no_training_record_is_an_error_with_a_tokenizer_of_its_own_too(tmp_path: Path, source: Path) -> None:
    tokenizer = prepare(config_for(tmp_path / "data", source), quiet=True) / "tokenizer"
    with pytest.raises(DiptychError, match=r"data\.sources: no training record is left; check paths and keep rules"):
        prepare(
            config_for(tmp_path / "data", source, f"tokenizer.path='{tokenizer}'", "data.sources.0.keep.text=nothing"),
            quiet=True,
        )


def test_an_existing_tokenizer_is_used_as_it_is(tmp_path: Path, source: Path) -> None:
    first = read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True))
    config = config_for(tmp_path / "data", source, f"tokenizer.path='{first.folder / 'tokenizer'}'")
    second = read_corpus(prepare(config, quiet=True))
    assert second.folder != first.folder
    assert second.manifest["tokenizer_fingerprint"] == first.manifest["tokenizer_fingerprint"]
    assert second.fingerprint == first.fingerprint


@pytest.mark.parametrize("name", ["file", "file/below"])
def test_a_data_folder_that_cannot_be_written_is_named(tmp_path: Path, source: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / name, source), quiet=True)
    assert str(caught.value).startswith(f"data.folder {tmp_path / name}: cannot write (")
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.mark.parametrize("name", ["train.arrow", "heldout.arrow", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_corpus_is_detected(tmp_path: Path, source: Path, name: str, damage: str) -> None:
    folder = prepare(config_for(tmp_path / "data", source), quiet=True)
    path = folder / name
    path.write_bytes(path.read_bytes()[:-1])
    if damage == "gone":
        path.unlink()
    with pytest.raises(DiptychError) as caught:
        read_corpus(folder)
    assert str(caught.value) == f"{path}: missing or cut short; remove {folder} and prepare it again"


def test_a_folder_without_a_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        DiptychError, match=r"holds no prepared corpus \(no manifest\.json\); run python -m pretrain\.prep"
    ):
        read_corpus(tmp_path)


def test_the_command_prints_counts_and_one_clear_line_on_bad_input(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> int:
        given = [f"data.sources=[{{type: jsonl, path: '{source}'}}]", "data.views=[text,code]"]
        given += ["tokenizer.vocab_size=320", f"data.folder={tmp_path / 'data'}", *arguments]
        monkeypatch.setattr(sys, "argv", ["prepare", *given])
        return run_command(main)

    assert run("data.heldout_fraction=0.2") == 0
    folder = next((tmp_path / "data").iterdir())
    counts = read_corpus(folder).manifest["splits"]
    output = capsys.readouterr().out
    assert output.splitlines()[0] == str(folder)
    assert f"train: {counts['train']['records']} records" in output and "0 views truncated" in output
    assert run("data.heldout_fraction=0") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: data.heldout_fraction: 0.0 leaves 0 held-out records")
    monkeypatch.setenv("RANK", "1")
    assert run("data.heldout_fraction=0") == 1
    assert capsys.readouterr().err == ""  # said once, by rank 0
