"""Which texts count as equal: duplicates, test sets and held-out records, by what their views hold."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.commands.prepare import main
from pretrain.config.data import CleaningConfig, DataConfig
from pretrain.config.loading import load_config
from pretrain.config.sections import Config
from pretrain.data.corpus import Corpus, read_corpus
from pretrain.preparation.cleaning import Filter
from pretrain.preparation.prepare import prepare
from pretrain.runtime.errors import DiptychError
from pretrain.sources.docstrings import DocstringsSource
from pretrain.sources.synthetic.regex_grammar import RegexGrammarSource

FILLER = [(f"lines that name a wolf {n} times", f"(wolf){{{n}}}") for n in range(60)]


def write(path: Path, pairs: list[Any]) -> Path:
    rows = [pair if isinstance(pair, dict) else {"text": pair[0], "code": pair[1]} for pair in pairs]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def config_of(folder: Path, pairs: list[Any], tests: list[Any] | None = None, *overrides: str) -> Config:
    source = write(folder / "train.jsonl", pairs)
    exam = f"{{type: jsonl, path: '{write(folder / 'exam.jsonl', tests or [])}', name: exam}}"
    return load_config(
        None,
        [
            f"data.sources=[{{type: jsonl, path: '{source}', name: train}}]",
            *("data.views=[text, code]", f"data.folder='{folder}/data'", "data.heldout_fraction=0.2"),
            *("tokenizer.vocab_size=330", "data.workers=1"),
            *([f"data.decontamination.sources=[{exam}]"] if tests else []),
            *overrides,
        ],
    )


def corpus_of(*arguments: Any) -> Corpus:
    return read_corpus(prepare(config_of(*arguments), quiet=True))


def lines(corpus: Corpus) -> set[int]:
    splits = corpus.train, corpus.heldout
    return {int(split.place(n).rpartition(":")[2]) for split in splits for n in range(len(split))}


# ------------------------------------------------------------------------------------------------------- duplicates

PAIRS = [
    ("lines with a capital", "[A-Z].*"),
    ("Lines  with a capital", "[A-Z].*"),  # the same in a language
    ("lines with a capital", "[a-z].*"),  # not the same in code
    ("lines with a capital", "[A-Z] .*"),
    ("[A-Z].*", "lines with a capital"),  # swapped
    ("[A-Z].*", "Lines with a capital"),  # swapped, but then a text is compared with code
]


@pytest.mark.parametrize(
    ("written", "dropped"),
    [("null", {2, 5}), ("[code]", {2, 5}), ("[]", {2, 3, 5, 6}), ("[text, code]", {5})],
)
def test_code_is_compared_as_written(tmp_path: Path, written: str, dropped: set[int]) -> None:
    overrides = [f"data.compare_as_written={written}"]
    corpus = corpus_of(tmp_path, [*PAIRS, *FILLER], None, *overrides)
    assert {1, 2, 3, 4, 5, 6} - lines(corpus) == dropped
    assert corpus.manifest["sources"][0]["dropped"] == {"duplicate": len(dropped)}
    kept = corpus_of(tmp_path, [*PAIRS, *FILLER], None, *overrides, "data.deduplication.exact=false")
    sides = [
        {int(split.place(n).rpartition(":")[2]) for n in range(len(split))} for split in (kept.train, kept.heldout)
    ]
    equal = [{1, 2, 5, 6}, {3}, {4}] if written != "[text, code]" else [{1, 5}]
    assert all(group <= side or group.isdisjoint(side) for side in sides for group in equal)


def test_near_duplicates_of_code_are_compared_as_written(tmp_path: Path) -> None:
    code = " ".join(f"(w{n}|x{n})" for n in range(60))
    pairs = [("one of them", code), ("one of them", code.upper()), ("one of them", code.replace("w30", "changed"))]
    corpus = corpus_of(tmp_path, [*pairs, *FILLER], None, "data.deduplication={near: true, bands: 40, band_hashes: 4}")
    assert {1, 2, 3} <= lines(corpus) | {3} and 3 not in lines(corpus)
    corpus = corpus_of(tmp_path, [*pairs, *FILLER], None, "data.deduplication.near=true", "data.compare_as_written=[]")
    assert 2 not in lines(corpus)


@pytest.mark.parametrize("exact", ["true", "false"])
def test_held_out_code_is_compared_as_written(tmp_path: Path, exact: str) -> None:
    held = write(tmp_path / "held.jsonl", [("lines with a capital", "[A-Z].*"), ("swapped", "Other")])
    pairs = [*PAIRS[:3], ("Other", "swapped"), ("other", "swapped"), *FILLER]
    override = f"data.heldout_sources=[{{type: jsonl, path: '{held}', name: held}}]"
    corpus = corpus_of(tmp_path, pairs, None, override, f"data.deduplication.exact={exact}")
    source = corpus.manifest["sources"][0]
    assert source["dropped"] == {"held_out_elsewhere": 3}
    assert {int(corpus.train.place(n).rpartition(":")[2]) for n in range(5)} >= {3, 5}
    assert corpus.manifest["notes"] == []  # no groups are involved


# -------------------------------------------------------------------------------------------------------- test sets


@pytest.mark.parametrize(
    ("settings", "written", "dropped"),
    [
        ("match=pair", "null", {1, 4}),
        ("match=pair", "[]", {1, 2, 4, 5}),
        ("match=view views=[code]", "null", {1, 4}),
        ("match=view views=[code]", "[]", {1, 2, 3, 4, 5}),
        ("match=view", "null", {1, 2, 4, 5}),
        ("match=ngram ngram=4 views=[code]", "null", {1, 4, 6}),
        ("match=ngram ngram=4 views=[code]", "[]", {1, 2, 3, 4, 5, 6, 7}),
    ],
)
def test_test_sets_are_found_in_code_as_written_and_swapped(
    tmp_path: Path, settings: str, written: str, dropped: set[int]
) -> None:
    pairs = [
        ("LINES with a capital", "[A-Z].*"),
        ("lines with a capital", "[a-z].*"),
        ("something else", "[a-z].*"),
        ("[A-Z].*", "lines with a capital"),
        ("[A-Z].*", "Lines With a capital"),
        ("four words of it", "select One\n  From Two where"),
        ("as many, spelt otherwise", "select one from two"),
    ]
    tests = [("lines with a capital", "[A-Z].*"), ("a query", "so select One From Two where not")]
    overrides = [f"data.decontamination.{setting}" for setting in settings.split()]
    corpus = corpus_of(tmp_path, [*pairs, *FILLER], tests, f"data.compare_as_written={written}", *overrides)
    assert {*range(1, 8)} - lines(corpus) == dropped
    (leak,) = corpus.manifest["leaks"]
    assert leak["pair"] == 1 and leak["second"] == 1
    assert corpus.manifest["test_sets"][0]["pair"] == 2


def test_two_wordings_of_one_view_are_a_pair_only_together(tmp_path: Path) -> None:
    pairs = [
        {"text": ["a wolf runs", "the wolf ran"], "code": "x"},
        {"text": ["a wolf runs", "nothing of it"], "code": "x"},
        {"text": ["A WOLF RUNS", "something", "the wolf ran"], "code": "x"},
        *({"text": [f"a heron {n} flies", f"heron {n} flew by"], "code": "x"} for n in range(60)),
    ]
    exam = [{"text": ["the wolf ran", "a wolf runs"], "code": "x"}]
    overrides = ["data.views=[text, text]", "data.decontamination.match=pair"]
    corpus = corpus_of(tmp_path, pairs, exam, *overrides)
    assert {1, 2, 3} - lines(corpus) == {1, 3}
    assert corpus.manifest["test_sets"][0]["pair"] == corpus.manifest["leaks"][0]["pair"] == 1


def test_published_regular_expressions_of_test_and_training(shared: Path, tmp_path: Path) -> None:
    """NL-RX-SYNTH: equal strings, counted here by themselves, are those that the manifest counts."""
    files = [shared / "data" / "nlrx_synth" / f"{name}.jsonl" for name in ("train", "test")]
    rows = [[json.loads(line) for line in file.open(encoding="utf-8")] for file in files]
    train, test = ({row["code"] for row in part} for part in rows)
    override = f"data.sources=[{{type: jsonl, path: '{files[0]}', name: train}}]"
    tests = f"data.decontamination.sources=[{{type: jsonl, path: '{files[1]}', name: exam}}]"
    overrides = [override, tests, "data.decontamination.action=report", "tokenizer.vocab_size=400"]
    config = config_of(tmp_path, [], None, *overrides)
    manifest = read_corpus(prepare(config, quiet=True)).manifest
    assert manifest["leaks"][0]["second"] == len(train & test) == 110
    assert manifest["test_sets"][0]["second"] == len(test) == 1985


# --------------------------------------------------------------------------------------------------------- settings


def test_which_views_are_code_by_default() -> None:
    jsonl = {"type": "jsonl", "path": "x", "fields": {"doc": "a", "code": "b", "sql": "c"}}

    def written(**data: Any) -> tuple[str, ...]:
        return DataConfig.model_validate(data).views_as_written()

    assert written(sources=[jsonl], views=["doc", "code"]) == ("code",)
    assert written(sources=[jsonl], views=["doc", "sql"]) == ()
    assert written(sources=[jsonl], views=["doc", "sql"], compare_as_written=["sql"]) == ("sql",)
    assert written(sources=[jsonl], views=["doc", "code"], compare_as_written=[]) == ()
    assert written(sources=[DocstringsSource(type="docstrings", views=("doc", "body"))], views=["doc", "body"]) == (
        "body",
    )
    assert written(sources=[RegexGrammarSource(views=("text", "regex"))], views=["text", "regex"]) == ("regex",)
    assert written() == ()


def test_a_view_that_is_not_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DiptychError, match=r"data\.compare_as_written: 'sql' is none of data\.views"):
        config_of(tmp_path, [], None, "data.compare_as_written=[sql]")


# --------------------------------------------------------------------------------------------------------- wordings


@pytest.mark.parametrize(
    ("first", "second", "kept", "dropped"),
    [
        (["a b"], ["a b", "c d"], (["a b"], ["c d"]), ("equal_views",)),
        (["a b", "c d"], ["a b"], (["c d"], ["a b"]), ("equal_views",)),
        (["a b", "c d"], ["a b", "c d"], (["a b"], ["c d"]), ("equal_views", "equal_views")),
        (["a b"], ["a b"], "equal_views", ()),
        (["a b"], ["", "c d", "!!"], (["a b"], ["c d"]), ("empty", "few_letters")),
        (["a b"], ["x", "e" * 50], "short", ()),
        (["a b"], ["e" * 11, "c d", "e" * 30], (["a b"], ["c d"]), ("long", "length_ratio")),
        (["a b", "e" * 12], ["c d"], (["a b"], ["c d"]), ("length_ratio",)),
        (["a b"], ["e" * 12], "length_ratio", ()),
        (["a b", "", "c d"], [], (["a b", "c d"], []), ("empty",)),
        (["a b", "e" * 12, "c d"], [], (["a b", "c d"], []), ("length_ratio",)),
        (["a b", "x"], [], "short", ()),
        (["a b"], [], "one_wording", ()),
    ],
)
def test_a_bad_wording_does_not_take_the_good_ones_along(
    first: list[str], second: list[str], kept: Any, dropped: tuple[str, ...]
) -> None:
    config = CleaningConfig(min_chars=2, max_chars=20, max_length_ratio=3, min_letter_share=0.3)
    usable = Filter(config)(first, second)
    if isinstance(kept, str):
        assert (usable.reason, usable.dropped) == (kept, ())
    else:
        assert usable.reason is None
        assert (list(usable.first), list(usable.second)) == kept
        assert sorted(usable.dropped) == sorted(dropped)


def test_a_wording_equal_to_the_text_is_dropped_and_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs: list[Any] = [{"text": text, "code": [text, f"{code}+", code]} for text, code in FILLER]
    pairs[7] = {"text": "only this", "code": ["only this"]}
    config = config_of(tmp_path, pairs, None)
    corpus = read_corpus(prepare(config, quiet=True))
    (source,) = corpus.manifest["sources"]
    assert source["dropped"] == {"equal_views": 1}
    assert source["dropped_wordings"] == {"equal_views": 59}
    assert {corpus.train.wordings(n) for n in range(len(corpus.train))} == {(1, 2)}
    counts = corpus.manifest["splits"]
    assert sum(split["second_wordings"] for split in counts.values()) == 2 * 59
    path = tmp_path / "config.yaml"
    path.write_text(f"data: {{folder: '{tmp_path}/data'}}")
    main([str(path), *_overrides(config)])
    assert "60 read, dropped: 1 equal_views, wordings dropped: 59 equal_views" in capsys.readouterr().out


def _overrides(config: Config) -> list[str]:
    sources = json.dumps([source.model_dump(mode="json") for source in config.data.sources])
    return [
        f"data.sources={sources}",
        *("data.views=[text, code]", "data.heldout_fraction=0.2", "tokenizer.vocab_size=330", "data.workers=1"),
    ]
