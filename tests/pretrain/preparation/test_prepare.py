"""Preparing a corpus: a function of its inputs, exact counts, and bad input that stops with its place and a remedy."""

import gzip
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pretrain.commands.prepare import main
from pretrain.config.loading import dump_config, load_config
from pretrain.config.sections import Config
from pretrain.data.corpus import Corpus, CorpusSplit, read_corpus
from pretrain.data.tokenizer import load
from pretrain.preparation import reading
from pretrain.preparation.duplicates import text_key
from pretrain.preparation.prepare import _Preparation, longest_view, prepare
from pretrain.runtime.command import run_command
from pretrain.runtime.errors import DiptychError

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
            "data.compare_as_written=[]",  # both are natural language here
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


def inputs(config: Config) -> dict[str, Any]:
    return _Preparation(config, quiet=True).inputs


def pairs_of(split: CorpusSplit) -> Any:
    return split.pairs(np.arange(len(split)))


def source_of(corpus: Corpus, name: str) -> dict[str, Any]:
    (found,) = [source for source in corpus.manifest["sources"] if source["name"] == name]
    return found


def work_files(folder: Path, stage: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in (folder / "work" / stage).iterdir()}


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
    assert len(list((tmp_path / "data").iterdir())) == 2 + 1  # work/, and nothing half-done beside them


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
        "data.sources.0.name=other",
        "data.compare_as_written=[code]",
        "data.cleaning.unicode=NFKC",
        "data.cleaning.min_chars=3",
        "data.deduplication.exact=false",
        "data.deduplication.near=true",
        "data.decontamination.ngram=8",
    ],
)
def test_every_setting_that_decides_tokens_decides_the_folder(tmp_path: Path, source: Path, override: str) -> None:
    assert inputs(config_for(tmp_path, source)) != inputs(config_for(tmp_path, source, override))


@pytest.mark.parametrize(
    "override",
    [
        "run.seed=3",
        "objective.predictors=2",
        "model.fields.hidden_size=8",
        "run.folder=x",
        "data.workers=3",
        "data.on_bad_row=skip",
        "data.repeat=true",
    ],
)
def test_other_settings_share_the_corpus(tmp_path: Path, source: Path, override: str) -> None:
    assert inputs(config_for(tmp_path, source)) == inputs(config_for(tmp_path, source, override))


def test_other_users_may_read_the_corpus(tmp_path: Path, source: Path) -> None:
    before = os.umask(0o022)
    try:
        folder = prepare(config_for(tmp_path / "data", source), quiet=True)
    finally:
        os.umask(before)
    for path in [folder, *folder.rglob("*")]:
        assert path.stat().st_mode & stat.S_IROTH, path


# ------------------------------------------------------------------------------------------------ what is in the files


def test_every_record_is_in_one_split_in_the_order_of_the_source(tmp_path: Path, source: Path) -> None:
    pairs = sentences(120)
    found = texts(read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True)))
    for split in found.values():
        assert split == [pair for pair in pairs if pair in split]
    assert Counter(found["train"] + found["heldout"]) == Counter(pairs)
    assert 10 <= len(found["heldout"]) <= 40
    other = read_corpus(
        prepare(config_for(tmp_path / "data", write_pairs(tmp_path / "b.jsonl", pairs[::-1])), quiet=True)
    )
    assert set(texts(other)["heldout"]) == set(found["heldout"])  # the order decides nothing


def test_records_of_a_group_stay_on_one_side(tmp_path: Path) -> None:
    rows = [{"text": a, "code": b, "gid": number // 6} for number, (a, b) in enumerate(sentences(240))]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_for(tmp_path / "data", source, "data.sources.0.group=gid")
    corpus = read_corpus(prepare(config, quiet=True))
    found = texts(corpus)
    group = {(row["text"], row["code"]): row["gid"] for row in rows}
    held, trained = ({group[pair] for pair in found[split]} for split in ("heldout", "train"))
    assert held and trained and held.isdisjoint(trained)
    assert len(found["heldout"]) == 6 * len(held)
    for split in (corpus.heldout, corpus.train):  # which the probe asks for
        assert [split.group(record) for record in range(len(split))] == [
            text_key(str(rows[int(split.place(record).rpartition(":")[2]) - 1]["gid"])) for record in range(len(split))
        ]


def test_held_out_sources_are_taken_whole(tmp_path: Path, source: Path) -> None:
    """And a training record that equals a held-out one is dropped, whichever the config names first."""
    test = write_pairs(tmp_path / "test.jsonl", [*sentences(7, start=500), sentences(1)[0]])
    override = f"data.heldout_sources=[{{type: jsonl, path: '{test}', name: test}}]"
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, override), quiet=True))
    assert (len(corpus.train), len(corpus.heldout)) == (119, 8)
    assert corpus.heldout.place(3) == f"{test}:4"
    assert corpus.train.place(0) == f"{source}:2"
    assert source_of(corpus, corpus.train.sources[0].name)["dropped"] == {"held_out_elsewhere": 1}


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path, source: Path) -> None:
    config = config_for(tmp_path / "data", source)
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    by_place = {f"{source}:{number}": pair for number, pair in enumerate(sentences(120), start=1)}
    for split in (corpus.train, corpus.heldout):
        drawn = pairs_of(split)
        for index in range(len(split)):
            pair = by_place.pop(split.place(index))
            for which, view in enumerate(split.views(index)):
                assert list(view.tokens) == tokenizer.encode_batch([pair[which]])[0]
                assert view.complete and len(view.tokens) == drawn.lengths[index, which]
                assert drawn.num_bytes[index, which] == len(pair[which].encode())
    assert not by_place


def test_the_manifest_counts_what_is_there(tmp_path: Path, source: Path) -> None:
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, "data.max_view_tokens=12"), quiet=True))
    for name in ("train", "heldout"):
        split, counts = getattr(corpus, name), corpus.manifest["splits"][name]
        drawn = pairs_of(split)
        assert counts == {
            "records": len(split),
            "pair_tokens": drawn.lengths.sum(),
            "first_wordings": len(split),
            "second_wordings": len(split),
            "first_tokens": drawn.lengths[:, 0].sum(),
            "second_tokens": drawn.lengths[:, 1].sum(),
            "first_bytes": drawn.num_bytes[:, 0].sum(),
            "second_bytes": drawn.num_bytes[:, 1].sum(),
            "first_truncated": (~drawn.complete[:, 0]).sum(),
            "second_truncated": (~drawn.complete[:, 1]).sum(),
            "longest_pair": drawn.lengths.sum(axis=1).max(),
        }
        assert corpus.manifest["sources"][0][name]["records"] == len(split)
    assert corpus.manifest["sources"][0]["where"] == str(source)
    assert set(corpus.manifest["files"]) == set(contents(corpus.folder)) - {"manifest.json"}


def test_a_long_view_is_cut_and_counted(tmp_path: Path) -> None:
    pairs = sentences(60)
    pairs[5] = ("the cat sat on mat " + "and é sat " * 40, "short")
    source = write_pairs(tmp_path / "pairs.jsonl", pairs)
    test = write_pairs(tmp_path / "test.jsonl", sentences(9, start=700))
    override = f"data.heldout_sources=[{{type: jsonl, path: '{test}', name: test}}]"
    config = config_for(tmp_path / "data", source, "data.max_view_tokens=30", override)
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    first, second = corpus.train.views(5)
    whole = tokenizer.encode_batch([pairs[5][0]])[0]
    assert len(whole) > 30 and list(first.tokens) == whole[:30] and not first.complete
    assert second.complete
    drawn = pairs_of(corpus.train)
    assert drawn.num_bytes[5, 0] == len(tokenizer.decode(whole[:30]).encode()) < len(pairs[5][0].encode())
    lengths = [len(ids) for pair in pairs for ids in tokenizer.encode_batch(pair)]
    counts = corpus.manifest["splits"]["train"]
    assert counts["first_truncated"] + counts["second_truncated"] == sum(length > 30 for length in lengths) >= 1
    assert np.all(drawn.lengths <= 30)


def test_several_wordings_are_drawn_from(tmp_path: Path) -> None:
    """Five captions of an image: two different ones make a pair, another one for another key."""
    rows = [{"captions": [f"caption {word} of image {n}" for word in "abcde"]} for n in range(60)]
    source = tmp_path / "captions.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data.sources.0.fields={caption: captions}", "data.views=[caption, caption]"]
    config = config_for(tmp_path / "data", source, *overrides)
    corpus = read_corpus(prepare(config, quiet=True))
    tokenizer = load(str(corpus.folder / "tokenizer"), config.tokenizer)
    split = corpus.train
    assert split.wordings(0) == (5, 0)
    seen = set()
    for key in range(200):
        keys = np.full(len(split), key, dtype=np.uint64)
        drawn = split.pairs(np.arange(len(split)), keys)
        one, other = drawn.wordings[3].tolist()
        assert one != other
        views = split.views(3, (one, other))
        assert [len(view.tokens) for view in views] == drawn.lengths[3].tolist()
        image = int(split.place(3).rpartition(":")[2]) - 1
        words = [tokenizer.decode(view.tokens) for view in views]
        assert words == [rows[image]["captions"][number] for number in (one, other)]
        seen.add((one, other))
    assert len(seen) == 20  # every ordered pair of different captions


def test_mean_tokens_are_those_of_drawn_pairs(tmp_path: Path) -> None:
    rows = [{"en": ["a long text of many words"] if n % 2 else ["short"] * 1 + [f"s {n}"] * (n % 5), "de": f"x {n}"}
            for n in range(200)]  # fmt: skip
    source = tmp_path / "uneven.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data.sources.0.fields={en: en, de: de}", "data.views=[en, de]"]
    split = read_corpus(prepare(config_for(tmp_path / "data", source, *overrides), quiet=True)).train
    keys = np.random.default_rng(0).integers(0, 2**63, (200, len(split)), dtype=np.uint64)
    drawn = np.mean([split.pairs(np.arange(len(split)), key).lengths.sum(axis=1).mean() for key in keys])
    assert split.sources[0].mean_tokens == pytest.approx(drawn, rel=0.01)


def test_each_view_may_have_wordings_of_its_own(tmp_path: Path) -> None:
    rows = [{"en": [f"house {n}", f"home {n}"], "de": [f"Haus {n}", f"Heim {n}", f"Gebäude {n}"]} for n in range(60)]
    source = tmp_path / "two.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    overrides = ["data.sources.0.fields={en: en, de: de}", "data.views=[en, de]"]
    split = read_corpus(prepare(config_for(tmp_path / "data", source, *overrides), quiet=True)).train
    assert split.wordings(0) == (2, 3)
    drawn = [split.pairs(np.array([0]), np.array([key], dtype=np.uint64)).wordings[0].tolist() for key in range(60)]
    assert {tuple(pair) for pair in drawn} == {(a, b) for a in (0, 1) for b in (2, 3, 4)}
    assert split.pairs(np.array([0])).wordings.tolist() == [[0, 2]]


def test_views_are_cut_to_what_a_row_takes_by_default(tmp_path: Path, source: Path) -> None:
    config = config_for(tmp_path, source, "packing.row_length=64", "packing.layout=independent")
    assert longest_view(config) == (64 - 2 - 4) // 2  # two bos, four reserved predictors
    config = config_for(tmp_path, source, "packing.row_length=64", "packing.layout=conditional")
    assert longest_view(config) == (64 - 2 - 4) // 3


# ------------------------------------------------------------------------------------- what is kept, dropped, and why


def test_filters_drop_and_count(tmp_path: Path) -> None:
    pairs = sentences(100)
    pairs[3] = ("equal", "equal")
    pairs[4] = ("x", "too short a text")
    pairs[5] = ("short text", "much longer " * 40)
    pairs[6] = ("!!! ??? ... --- !!! ???", "only signs in the other one")
    pairs[7] = ("again and again and again and again and again and again and again", "a stuck record of some kind")
    pairs[8] = ("\u200b\x07", "nothing is left of the first view")
    source = write_pairs(tmp_path / "pairs.jsonl", pairs)
    cleaning = "{min_chars: 2, max_chars: 400, max_length_ratio: 10, min_letter_share: 0.3, max_repetition: 0.5}"
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, f"data.cleaning={cleaning}"), quiet=True))
    assert source_of(corpus, corpus.train.sources[0].name)["dropped"] == {
        "equal_views": 1,
        "short": 1,
        "long": 1,
        "few_letters": 1,
        "repetitive": 1,
        "empty": 1,
    }
    assert len(corpus.train) + len(corpus.heldout) == 94


def test_texts_are_normalised_as_asked(tmp_path: Path) -> None:
    pairs = [*sentences(60), ("cafe\u0301 \ufb01ne", "a\x00b  c\r\nd\x0ce")]
    source = write_pairs(tmp_path / "pairs.jsonl", pairs)

    def last(*overrides: str) -> tuple[str, str]:
        corpus = read_corpus(prepare(config_for(tmp_path / "data", source, *overrides), quiet=True))
        found = texts(corpus)
        (pair,) = [
            pair for pair in found["train"] + found["heldout"] if pair[0].startswith("caf") and "sat" not in pair[0]
        ]
        return pair

    assert last() == ("café \ufb01ne", "ab  c\nd e")
    assert last("data.cleaning.unicode=NFKC", "data.cleaning.spaces=collapse") == ("café fine", "ab c d e")
    assert last("data.cleaning.unicode=none", "data.cleaning.controls=keep") == pairs[-1]


def test_duplicates_are_dropped_within_and_across_sources(tmp_path: Path) -> None:
    one = write_pairs(tmp_path / "one.jsonl", sentences(80) + sentences(10))
    shouted = [(a.upper(), b.replace(" ", "  ")) for a, b in sentences(5, start=20)]
    two = write_pairs(tmp_path / "two.jsonl", [*shouted, *sentences(30, start=100)])
    override = f"data.sources=[{{type: jsonl, path: '{one}', name: one}}, {{type: jsonl, path: '{two}', name: two}}]"
    corpus = read_corpus(prepare(config_for(tmp_path / "data", one, override), quiet=True))
    assert corpus.manifest["duplicates"] == [
        {"of": "one", "in": "one", "reason": "duplicate", "records": 10},
        {"of": "one", "in": "two", "reason": "duplicate", "records": 5},
    ]
    assert source_of(corpus, "two")["dropped"] == {"duplicate": 5}
    assert len(corpus.train) + len(corpus.heldout) == 110
    both = read_corpus(
        prepare(config_for(tmp_path / "data", one, override, "data.deduplication.exact=false"), quiet=True)
    )
    assert len(both.train) + len(both.heldout) == 125
    found = texts(both)  # equal records fall on one side, also when they are kept
    assert set(found["heldout"]).isdisjoint(found["train"])


def test_near_duplicates_are_dropped(tmp_path: Path) -> None:
    words = [f"w{hashlib.sha256(str(n).encode()).hexdigest()[:5]}" for n in range(6000)]
    long = [(" ".join(words[60 * n : 60 * n + 60]), f"summary {n} of it") for n in range(50)]
    changed = [(text.replace(words[60 * n + 30], "changed"), code) for n, (text, code) in enumerate(long[:8])]
    source = write_pairs(tmp_path / "pairs.jsonl", long + changed)
    near = read_corpus(prepare(config_for(tmp_path / "data", source, "data.deduplication.near=true"), quiet=True))
    dropped = source_of(near, near.train.sources[0].name)["dropped"]
    assert 6 <= dropped.pop("near_duplicate") <= 8 and not dropped  # 0.85 alike: found with probability 0.99 each
    lines = {int(split.place(n).rpartition(":")[2]) for split in (near.train, near.heldout) for n in range(len(split))}
    assert lines >= set(range(1, 51))  # the first of two stays


@pytest.mark.parametrize(
    ("settings", "dropped"),
    [
        ("match: pair", {1}),
        ("match: view", {1, 2, 3}),
        ("match: view, views: [text]", {1, 2}),
        ("match: ngram, ngram: 6", {1, 2, 3, 4}),
        ("match: ngram, ngram: 13", {1, 2, 3}),
        ("match: ngram, ngram: 6, action: report", set()),
    ],
)
def test_training_records_of_test_sets_are_dropped(tmp_path: Path, settings: str, dropped: set[int]) -> None:
    test = ("A test sentence of exactly eight words here", "its Answer")
    pairs = sentences(60)
    pairs[0] = ("a TEST sentence of  exactly eight words here", "its answer")  # the pair
    pairs[1] = (test[0], "another answer")  # the first view
    pairs[2] = ("another question altogether", test[1])  # the second view
    pairs[3] = ("so this is test sentence of exactly eight words then", "nothing else")  # seven words of it
    source = write_pairs(tmp_path / "pairs.jsonl", pairs)
    tests = write_pairs(tmp_path / "tests.jsonl", [test, ("never seen", "never seen either")])
    override = f"data.decontamination={{sources: [{{type: jsonl, path: '{tests}', name: tests}}], {settings}}}"
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, override), quiet=True))
    lines = {
        int(split.place(n).rpartition(":")[2]) for split in (corpus.train, corpus.heldout) for n in range(len(split))
    }
    assert set(range(1, 61)) - lines == dropped
    (leak,) = corpus.manifest["leaks"]
    ngram = 1 if "ngram: 6" in settings else 2  # whole texts if shorter than an n-gram
    assert (leak["pair"], leak["first"], leak["second"], leak["any"]) == (1, 1, 1, 2)
    assert leak["ngram"] == (2 if ngram == 2 or "6" in settings else 1)
    assert corpus.manifest["test_sets"][0] | {"where": 0} == {
        "name": "tests", "where": 0, "records": 2, "bad": 0, "left_out": 0,
        "pair": 2, "first": 2, "second": 2, "any": 4, "ngram": 4,
    }  # fmt: skip


@pytest.mark.slow
def test_the_leaks_of_real_data_are_found(tmp_path: Path, shared: Path) -> None:
    """Distinct test items that are in the training file too, as another program counted them: pairs, texts, codes.

    It found 8 pairs for spider, one less, because it compares the SQL of a pair (not of a side) by case.
    """
    known = {("nlrx_synth", "test"): (39, 39, 513), ("spider", "test"): (9, 14, 1039), ("conala", "test"): (0, 0, 6)}
    known |= {("django", "test"): (80, 81, 87), ("django", "validation"): (61, 61, 71)}
    names = sorted({name for name, _ in known})
    listed = [f"{{type: jsonl, path: '{shared}/data/{name}/train.jsonl'}}" for name in names]
    tests = [f"{{type: jsonl, path: '{shared}/data/{name}/{split}.jsonl'}}" for name, split in known]
    overrides = [f"data.sources=[{', '.join(listed)}]", "tokenizer.vocab_size=1000"]
    overrides += [f"data.decontamination={{match: pair, sources: [{', '.join(tests)}]}}"]
    corpus = read_corpus(prepare(config_for(tmp_path / "data", tmp_path, *overrides), quiet=True))
    leaks = {(leak["test"], leak["in"]): leak for leak in corpus.manifest["leaks"]}
    for (name, split), counts in known.items():
        leak = leaks[f"{name}.{split}", f"{name}.train"]
        assert (leak["pair"], leak["first"], leak["second"]) == counts, name


# ---------------------------------------------------------------------------------------- any number of workers; kills


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(tmp_path: Path) -> None:
    files = [write_pairs(tmp_path / f"{n}.jsonl", sentences(150, start=120 * n)) for n in range(3)]
    override = f"data.sources=[{{type: jsonl, path: '{tmp_path}/*.jsonl', name: all}}, {{type: reviews, count: 90}}]"
    views = ["data.sources.1.views=[text, code]", "data.deduplication.near=true", "tokenizer.vocab_size=400"]
    folders = [
        prepare(config_for(tmp_path / f"data{n}", files[0], override, *views, f"data.workers={n}"), quiet=True)
        for n in (1, 3)
    ]
    assert contents(folders[0]) == contents(folders[1])


@pytest.mark.slow
def test_a_killed_preparation_goes_on_where_it_stopped(tmp_path: Path) -> None:
    for n in range(8):
        write_pairs(tmp_path / f"{n}.jsonl", sentences(3000, start=3000 * n))
    sources = f"data.sources=[{{type: jsonl, path: '{tmp_path}/*.jsonl', name: all}}]"
    given = [sources, "data.views=[text, code]", "tokenizer.vocab_size=400", "data.workers=1"]
    straight = prepare(load_config(None, [*given, f"data.folder='{tmp_path}/straight'"]), quiet=True)
    command = [sys.executable, "-m", "pretrain.prepare", *given, f"data.folder='{tmp_path}/killed'"]
    read = tmp_path / "killed" / "work" / "read"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if read.is_dir() and len(list(read.glob("[!.]*.json"))) >= 3:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    before = {path: time for path, time in work_files(tmp_path / "killed", "read").items() if path.suffix == ".json"}
    resumed = prepare(load_config(None, [*given, f"data.folder='{tmp_path}/killed'"]), quiet=True)
    assert contents(resumed) == contents(straight)
    after = work_files(tmp_path / "killed", "read")
    assert all(after[path] == time for path, time in before.items())


def test_a_changed_setting_redoes_only_what_depends_on_it(tmp_path: Path, source: Path) -> None:
    other = write_pairs(tmp_path / "other.jsonl", sentences(50, start=300))
    listed = f"data.sources=[{{type: jsonl, path: '{source}'}}, {{type: jsonl, path: '{other}', name: other}}]"
    data = tmp_path / "data"

    def made(stage: str, *overrides: str) -> int:
        """Files that are new in a stage."""
        before = work_files(data, stage)
        prepare(config_for(data, source, listed, *overrides), quiet=True)
        after = work_files(data, stage)
        assert all(after[path] == time for path, time in before.items())
        return len(after) - len(before)

    prepare(config_for(data, source, listed), quiet=True)
    assert made("read", "data.cleaning.min_chars=4") == 0
    assert made("examined", "data.cleaning.min_chars=5") == 2
    assert made("examined", "data.deduplication.exact=false") == 0
    assert made("tokenizers", "data.max_view_tokens=20") == 0
    assert made("read", "data.cleaning.spaces=collapse") == 4
    write_pairs(other, sentences(51, start=300))
    assert made("read") == 2


# --------------------------------------------------------------------------------------------------------- bad input


BAD_LINES = [
    (b'{"text": "a"}', "no field 'code'"),
    (b'{"text": "a", "code": ', "invalid JSON at column 23: Expecting value"),
    (b'{"text": "caf\xe9", "code": "b"}', "byte 14"),
    (b'{"text": "a", "code": " \\n"}', "view 'code' is empty"),
    (b'{"text": 3, "code": "b"}', "view 'text' is no string but int: 3"),
    (b'{"text": "a", "code": null}', "view 'code' is no string but "),
    (b'{"text": "\\ud83d", "code": "b"}', "view 'text' holds half a surrogate pair"),
    (b'["a", "b"]', "expected a JSON object, found list"),
    (b"\x00\x01\x02", "looks like a binary file"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
def test_a_bad_line_stops_with_its_place(tmp_path: Path, source: Path, line: bytes, message: str) -> None:
    rows = source.read_bytes().splitlines()
    rows[40] = line
    source.write_bytes(b"\n".join(rows))
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", source), quiet=True)
    assert str(caught.value).startswith(f"{source}:41: ") and message in str(caught.value)
    assert str(caught.value).endswith("or set data.on_bad_row=skip to go on without such rows")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["work"]  # nothing half-done stays


def test_bad_rows_are_skipped_counted_and_listed_if_asked(tmp_path: Path) -> None:
    rows = [json.dumps({"text": a, "code": b}).encode() for a, b in sentences(1000)]
    for number, (line, _) in enumerate(BAD_LINES):
        rows[100 * number + 50] = line
    source = tmp_path / "pairs.jsonl"
    source.write_bytes(b"\n".join(rows))
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source, "data.on_bad_row=skip"), quiet=True))
    assert len(corpus.train) + len(corpus.heldout) == 991
    assert corpus.manifest["sources"][0]["bad"] == 9
    assert [row.split(": ")[0] for row in corpus.manifest["bad_rows"]] == [f"{source}:{100 * n + 51}" for n in range(9)]
    with pytest.raises(DiptychError, match=r"pairs.jsonl:51: .*no field 'code'.*on_bad_row=skip"):
        prepare(config_for(tmp_path / "data", source, "data.cleaning.min_chars=2"), quiet=True)  # read before, refused


def test_a_corpus_made_with_bad_rows_is_refused_without_them(tmp_path: Path, source: Path) -> None:
    source.write_bytes(source.read_bytes() + b"{}\n")
    prepare(config_for(tmp_path / "data", source, "data.on_bad_row=skip"), quiet=True)
    with pytest.raises(DiptychError, match=r"pairs\.jsonl:121: .*on_bad_row=skip"):
        prepare(config_for(tmp_path / "data", source), quiet=True)
    with pytest.raises(DiptychError, match=r"data\.max_bad_share: 1 of 121 rows are bad"):
        prepare(config_for(tmp_path / "data", source, "data.on_bad_row=skip", "data.max_bad_share=0"), quiet=True)


@pytest.mark.slow
def test_the_first_bad_row_is_reported_for_any_number_of_workers(tmp_path: Path) -> None:
    for number in range(6):
        path = write_pairs(tmp_path / f"{number}.jsonl", sentences(2000 if number < 5 else 5, start=2000 * number))
        if number in (1, 5):
            path.write_bytes(path.read_bytes() + b"{}\n")
    sources = f"data.sources=[{{type: jsonl, path: '{tmp_path}/*.jsonl', name: all}}]"
    for workers in (1, 3):
        with pytest.raises(DiptychError, match=r"/1\.jsonl:2001: no field"):
            prepare(config_for(tmp_path / "data", path, sources, f"data.workers={workers}"), quiet=True)


def test_swapped_pairs_are_one_record(tmp_path: Path) -> None:
    source = write_pairs(tmp_path / "pairs.jsonl", [*sentences(60), *((b, a) for a, b in sentences(60))])
    corpus = read_corpus(prepare(config_for(tmp_path / "data", source), quiet=True))
    assert len(corpus.train) + len(corpus.heldout) == 60
    kept = read_corpus(prepare(config_for(tmp_path / "data", source, "data.deduplication.exact=false"), quiet=True))
    found = texts(kept)
    assert {frozenset(pair) for pair in found["heldout"]}.isdisjoint({frozenset(pair) for pair in found["train"]})


def test_groups_of_held_out_sources_are_not_trained_on(tmp_path: Path) -> None:
    def write(name: str, start: int, groups: range) -> Path:
        path = tmp_path / name
        rows = [
            {"text": a, "code": b, "gid": g} for (a, b), g in zip(sentences(60, start), [*groups] * 60, strict=False)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    train, test = write("train.jsonl", 0, range(10)), write("test.jsonl", 500, range(8, 14))
    listed = [f"{{type: jsonl, path: '{path}', name: {path.stem}, group: gid}}" for path in (train, test)]
    overrides = [f"data.sources=[{listed[0]}]", f"data.heldout_sources=[{listed[1]}]"]
    corpus = read_corpus(prepare(config_for(tmp_path / "data", train, *overrides), quiet=True))
    assert source_of(corpus, "train")["dropped"] == {"held_out_elsewhere": 12}
    assert (len(corpus.train), len(corpus.heldout)) == (48, 60)
    (note,) = corpus.manifest["notes"]
    assert note.startswith("12 of 60 records of source 'train' are not trained on") and "leave out the group" in note


def test_groups_that_take_a_whole_source_are_named(tmp_path: Path) -> None:
    paths = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    for number, path in enumerate(paths):
        rows = [{"text": a, "code": b, "gid": n % 5} for n, (a, b) in enumerate(sentences(60, 500 * number))]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = [f"{{type: jsonl, path: '{path}', name: {path.stem}, group: gid}}" for path in paths]
    overrides = [f"data.sources=[{listed[0]}]", f"data.heldout_sources=[{listed[1]}]"]
    said = (
        r"source 'train' .* has no record left of 60 \(60 held_out_elsewhere\); held-out sources have its groups "
        r"\(group: gid\) or texts; .* leave out the group setting of one of them"
    )
    with pytest.raises(DiptychError, match=said):
        prepare(config_for(tmp_path / "data", paths[0], *overrides), quiet=True)


def test_groups_whose_texts_meet_are_not_noted(tmp_path: Path) -> None:
    """Two questions of one group, of which one is in both sources in another spelling."""
    rows = [{"text": a, "code": b, "gid": n // 2} for n, (a, b) in enumerate(sentences(60))]
    tests = [{"text": rows[n]["text"].upper(), "code": f"another {n}", "gid": n // 2} for n in range(0, 20, 2)]
    paths = [tmp_path / "train.jsonl", tmp_path / "test.jsonl"]
    for path, content in zip(paths, (rows, tests), strict=True):
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    listed = [f"{{type: jsonl, path: '{path}', name: {path.stem}, group: gid}}" for path in paths]
    overrides = [f"data.sources=[{listed[0]}]", f"data.heldout_sources=[{listed[1]}]"]
    corpus = read_corpus(prepare(config_for(tmp_path / "data", paths[0], *overrides), quiet=True))
    assert source_of(corpus, "train")["dropped"] == {"held_out_elsewhere": 20}
    assert corpus.manifest["notes"] == []


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, source: Path) -> None:
    preparation = _Preparation(config_for(tmp_path / "data", source), quiet=True)
    source.write_bytes(source.read_bytes().replace(b"cat", b"dog"))
    os.utime(source, ns=(1, 1))
    with pytest.raises(DiptychError, match=r"pairs\.jsonl: changed while it was being read; start again"):
        preparation.run()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
@pytest.mark.parametrize("pattern", ["read/*.json", "read/*.arrow", "examined/*.npz"])
def test_a_damaged_file_of_a_stage_is_made_again(tmp_path: Path, source: Path, pattern: str, damage: str) -> None:
    before = contents(prepare(config_for(tmp_path / "data", source), quiet=True))
    for path in (tmp_path / "data" / "work").glob(pattern):
        content = path.read_bytes()
        half = len(content) // 2
        other = bytes(255 - byte for byte in content[half : half + 30])
        path.write_bytes(content[:-20] if damage == "cut" else content[:half] + other + content[half + 30 :])
    shutil.rmtree(next(path for path in (tmp_path / "data").iterdir() if path.name != "work"))
    assert contents(prepare(config_for(tmp_path / "data", source), quiet=True)) == before


@pytest.mark.slow
def test_a_compressed_file_with_much_text_becomes_pieces(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = tmp_path / "pairs.jsonl.gz"
    packed.write_bytes(gzip.compress(write_pairs(tmp_path / "much.jsonl", sentences(5000)).read_bytes()))
    whole = prepare(config_for(tmp_path / "whole", packed), quiet=True)
    monkeypatch.setattr(reading, "_FILE_BYTES", 40_000)
    pieces = prepare(config_for(tmp_path / "pieces", packed), quiet=True)
    assert len(list((tmp_path / "pieces" / "work" / "read").glob("*.arrow"))) >= 5
    assert texts(read_corpus(pieces)) == texts(read_corpus(whole))


def test_too_many_bad_rows_are_refused(tmp_path: Path, source: Path) -> None:
    source.write_bytes(source.read_bytes() + b"{}\n" * 5)
    message = r"data\.max_bad_share: 5 of 125 rows are bad, more than 1\.00%; the first is .*pairs\.jsonl:121: "
    with pytest.raises(DiptychError, match=message):
        prepare(config_for(tmp_path / "data", source, "data.on_bad_row=skip"), quiet=True)
    prepare(config_for(tmp_path / "data", source, "data.on_bad_row=skip", "data.max_bad_share=0.05"), quiet=True)


def test_a_repeated_id_is_an_error(tmp_path: Path) -> None:
    rows = [{"text": a, "code": b, "qid": n % 90} for n, (a, b) in enumerate(sentences(100))]
    source = tmp_path / "pairs.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", source, "data.sources.0.id=qid"), quiet=True)
    assert str(caught.value).startswith(f"{source}:91: the id '0' was seen before, at {source}:1; make ids unique")
    overrides = ["data.sources.0.id=qid", "data.on_bad_row=skip"]
    with pytest.raises(DiptychError, match=r"data\.max_bad_share: 10 of 100 rows are bad"):
        prepare(config_for(tmp_path / "data", source, *overrides), quiet=True)
    config = config_for(tmp_path / "data", source, *overrides, "data.max_bad_share=0.1")
    corpus = read_corpus(prepare(config, quiet=True))
    assert corpus.manifest["sources"][0]["dropped"] == {"duplicate_id": 10}
    assert corpus.manifest["bad_rows"][0] == f"{source}:91: the id '0' was seen before"


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"nowhere\.jsonl: no such file .*; check the path"):
        prepare(config_for(tmp_path / "data", tmp_path / "nowhere.jsonl"), quiet=True)


def test_two_sources_of_one_name_are_refused(tmp_path: Path, source: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    paths = [write_pairs(tmp_path / name / "x.jsonl", sentences(9)) for name in "ab"]
    listed = ", ".join(f"{{type: jsonl, path: '{path}', name: same}}" for path in paths)
    with pytest.raises(DiptychError, match=r"data\.sources\.1: is named 'same' like data\.sources\.0; give it a name"):
        config_for(tmp_path, source, f"data.sources=[{listed}]")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokenizer.vocab_size=5000"], "tokenizer.vocab_size: 5000 is more than the corpus gives with bpe: set"),
        (["tokenizer.vocab_size=100"], "tokenizer.vocab_size: 100 is too small"),
        (
            ["data.max_view_tokens=500"],
            "data.max_view_tokens: 500 tokens a view do not fit packing.row_length 256 in the independent layout; the "
            "most is 254",
        ),
        (
            ["packing.row_length=8", "packing.layout=conditional"],
            "data.max_view_tokens: 1 tokens a view do not fit packing.row_length 8 in the conditional layout; the most "
            "is 0",
        ),
        (["data.heldout_fraction=0"], "data.heldout_fraction: 0.0 leaves 0 held-out records, evaluation needs 2"),
        (
            ["data.sources.0.keep.text=nothing", "data.sources.0.name=one"],
            'data: source \'one\' ({source}) holds no record that is wanted: keep {"text": "nothing"} leaves out all '
            "120 rows; correct keep",
        ),
        (
            ["data.decontamination.sources=[{type: jsonl, path: '{source}', name: exam, keep: {text: nothing}}]"],
            'data: source \'exam\' ({source}) holds no record that is wanted: keep {"text": "nothing"} leaves out',
        ),
        (
            ["data.heldout_sources=[{type: jsonl, path: '{source}', name: one, keep: {text: the cat sat on mat 0}}]"],
            "data.heldout_sources: 1 record is left of them, but evaluation needs 2 or more; add records or another",
        ),
        (["data.cleaning.min_chars=1000"], "data: source "),
        (["tokenizer.path=/nowhere"], "tokenizer.path: /nowhere: no such folder"),
    ],
)
def test_settings_that_the_data_cannot_meet_are_refused(
    tmp_path: Path, source: Path, overrides: list[str], message: str
) -> None:
    overrides = [override.replace("{source}", str(source)) for override in overrides]
    with pytest.raises(DiptychError) as caught:
        prepare(config_for(tmp_path / "data", source, "packing.layout=independent", *overrides), quiet=True)
    assert str(caught.value).startswith(message.replace("{source}", str(source)))


def test_rows_that_keep_leaves_out_are_counted(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) | {"lang": "en" if n < 100 else "de"} for n, line in enumerate(source.open())]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = config_for(tmp_path / "data", source, "data.sources.0.keep.lang=en", "data.workers=1")
    manifest = read_corpus(prepare(config, quiet=True)).manifest
    assert (manifest["sources"][0]["read"], manifest["sources"][0]["left_out"]) == (100, 20)
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert main([str(path)]) == 0
    assert "100 read, dropped: none, 20 rows left out by keep" in capsys.readouterr().out


def test_a_test_set_of_one_view_has_no_pairs_to_match(tmp_path: Path, source: Path) -> None:
    tests = (
        f"data.decontamination={{match: pair, sources: [{{type: jsonl, path: '{source}', fields: {{text: text}}}}]}}"
    )
    with pytest.raises(DiptychError, match=r"decontamination\.sources\.0: has not both .* match view or ngram"):
        config_for(tmp_path, source, tests)


def test_a_source_of_which_nothing_is_left_is_named_with_the_reasons(tmp_path: Path, source: Path) -> None:
    with pytest.raises(
        DiptychError, match=r"pairs\.jsonl\) has no record left of 120 \(120 short\); check its keep rule"
    ):
        prepare(config_for(tmp_path / "data", source, "data.cleaning.min_chars=1000"), quiet=True)


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


@pytest.mark.parametrize("pattern", ["train/*/00000.arrow", "heldout/*/00000.arrow", "tokenizer/tokenizer.json"])
@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_corpus_is_detected(tmp_path: Path, source: Path, pattern: str, damage: str) -> None:
    folder = prepare(config_for(tmp_path / "data", source), quiet=True)
    (path,) = folder.glob(pattern)
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


@pytest.mark.slow
def test_the_command_prints_counts_and_one_clear_line_on_bad_input(
    tmp_path: Path, source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*arguments: str) -> int:
        given = [f"data.sources=[{{type: jsonl, path: '{source}'}}]", "data.views=[text,code]"]
        given += ["tokenizer.vocab_size=320", f"data.folder={tmp_path / 'data'}", *arguments]
        monkeypatch.setattr(sys, "argv", ["prepare", *given])
        return run_command(main)

    assert run("data.heldout_fraction=0.2") == 0
    (folder,) = (path for path in (tmp_path / "data").iterdir() if path.name != "work")
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
