"""Looking at a corpus: facts equal to the input, text that fits a terminal, a page that is safe to open."""

import dataclasses
import json
import re
import unicodedata
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.config.loading import load_config
from pretrain.config.model import TokenizerConfig
from pretrain.config.sections import Config
from pretrain.data.branches import IGNORE, Branches
from pretrain.data.corpus import read_corpus
from pretrain.data.tokenizer import Tokenizer, load
from pretrain.preparation.prepare import prepare
from pretrain.runtime.errors import DiptychError
from pretrain.tools.inspect import find_facts, main, read_arguments
from pretrain.tools.inspection import facts as facts_module
from pretrain.tools.inspection import html, terminal
from pretrain.tools.inspection.facts import Facts, spread
from pretrain.tools.inspection.histogram import Histogram, histogram
from pretrain.tools.inspection.records import describe_record, tokens_of
from pretrain.tools.visible import columns, cut, visible
from tests.support.trees import lay_out

ANIMALS = ("cat", "dog", "heron", "café owner", "fox")
HOSTILE = "<script>\x1b[31m\x07\u202e\u200b\x00\n日本🎉 &amp; \"quoted\" 'too'</script> \x1b]0;title\x07 and more of it"
SECTIONS = ("summary", "sources", "duplicates", "tests", "bad-rows", "lengths", "records")
SGR = re.compile("\x1b\\[[0-9;]*m")


def pair(number: int) -> dict[str, Any]:
    animal = ANIMALS[number % 5]
    return {
        "text": f"the {animal} sat on mat {number}",
        "code": f"on mat {number} a {animal} was found" + " asleep" * 9,
    }


# 60 pairs, of which the last repeats the first; two rows that are no JSON.
FIRST = [*(pair(number) for number in range(59)), pair(0)]
# 22 records, 18 of several wordings and three hostile; the last repeats a pair of the first source.
SECOND: list[dict[str, Any]] = [
    *(
        {"text": [f"one way {n}", f"another way {n}", f"a third {n}"], "code": [f"meaning {n}", f"sense {n}"]}
        for n in range(18)
    ),
    *({"text": f"{HOSTILE} {n}", "code": f"{HOSTILE} again {n}"} for n in range(3)),
    pair(1),
]
EXAM = [pair(2), pair(3), {"text": "not in training", "code": "nowhere"}]


def write(path: Path, rows: list[dict[str, Any]], *bad: str) -> Path:
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(line + "\n" for line in (*lines, *bad)), encoding="utf-8")
    return path


def config_of(folder: Path, *overrides: str) -> Config:
    def source(name: str) -> str:
        return f"{{type: jsonl, path: '{folder / f'{name}.jsonl'}', name: {name}}}"

    return load_config(
        None,
        [
            f"data.sources=[{source('first')}, {source('second')}]",
            "data.views=[text, code]",
            "data.heldout_fraction=0.2",
            "data.max_view_tokens=30",
            "data.cleaning.controls=keep",
            "data.on_bad_row=skip",
            "data.max_bad_share=0.5",
            f"data.decontamination={{sources: [{source('exam')}], match: pair}}",
            f"data.folder='{folder / 'data'}'",
            "tokenizer.vocab_size=360",
            *overrides,
        ],
    )


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inspect")
    write(folder / "first.jsonl", FIRST, "{broken", "[1]")
    write(folder / "second.jsonl", SECOND)
    write(folder / "exam.jsonl", EXAM)
    return prepare(config_of(folder), quiet=True)


@pytest.fixture(scope="module")
def tokenizer(corpus: Path) -> Tokenizer:
    return load(corpus / "tokenizer", TokenizerConfig())


def facts_of(corpus: Path, *arguments: str) -> Facts:
    return find_facts(read_arguments([str(corpus), *arguments]))


# ------------------------------------------------------------------------------------------------------------- facts


def test_counts_are_those_of_the_input(corpus: Path, tokenizer: Tokenizer) -> None:
    facts = facts_of(corpus)
    first, second = facts.sources
    assert (first.name, first.role, first.files, first.read, first.bad) == ("first", "train", 1, 60, 2)
    assert (second.name, second.files, second.read, second.bad) == ("second", 1, 22, 0)
    assert first.dropped == {"contaminated": 2, "duplicate": 1}
    assert second.dropped == {"duplicate": 1}
    assert facts.reasons == ("contaminated", "duplicate")
    assert first.train.records + first.heldout.records == first.both.records == 57
    assert second.both.records == 21
    assert facts.bad == 2
    assert [row.split(": ")[0] for row in facts.bad_rows] == [f"{first.where}:{line}" for line in (61, 62)]

    kept = [*FIRST[:2], *FIRST[4:59]]
    for view, name in enumerate(("text", "code")):
        ids = tokenizer.encode_batch([row[name] for row in kept])
        assert first.both.tokens[view] == sum(min(30, len(own)) for own in ids)
        assert first.both.truncated[view] == sum(len(own) > 30 for own in ids)
        assert first.both.wordings[view] == 57
    assert second.both.wordings == (18 * 3 + 3, 18 * 2 + 3)
    assert second.both.truncated == (3, 3)
    whole = tokenizer.encode_batch([text for row in SECOND[:18] for text in row["text"]])
    assert second.both.tokens[0] == sum(map(len, whole)) + 3 * 30
    assert first.both.mean_tokens[0] == first.both.tokens[0] / 57

    train, heldout = facts.splits["train"], facts.splits["heldout"]
    assert train.records == first.train.records + second.train.records
    assert train.records + heldout.records == 57 + 21
    assert train.bytes_per_token == sum(train.num_bytes) / sum(train.tokens)
    assert facts.max_view_tokens == 30
    assert facts.longest_pair["train"] <= 60
    assert facts.vocab_size == tokenizer.vocab_size
    before = sum(path.stat().st_size for path in corpus.rglob("*") if path.is_file() and path.name != "inspect.html")
    assert facts.disk_bytes == before


def test_duplicates_and_leaks_are_those_of_the_input(corpus: Path) -> None:
    facts = facts_of(corpus)
    assert [dict(one) for one in facts.duplicates] == [
        {"of": "first", "in": "first", "reason": "duplicate", "records": 1},
        {"of": "first", "in": "second", "reason": "duplicate", "records": 1},
    ]
    assert [(name, records) for name, _, records in facts.test_sets] == [("exam", 3)]
    assert [(leak.test, leak.source) for leak in facts.leaks] == [("exam", "first"), ("exam", "second")]
    assert facts.leaks[0].items == (3, 3, 3, 6, 6)
    assert facts.leaks[0].found[:4] == (2, 2, 2, 4)
    assert not any(facts.leaks[1].found[:4])


def test_histograms_count_every_training_record(corpus: Path) -> None:
    facts = facts_of(corpus)
    total = facts.splits["train"].records
    assert facts.measured == (total, total)
    assert [one.title for one in facts.histograms] == ["text", "code", "a pair"]
    split = read_corpus(corpus).train
    for view, one in enumerate(facts.histograms[:2]):
        assert sum(part.count for part in one.bins) == total
        # Records of the first source have one wording: their lengths are known whatever pair is drawn.
        known = [len(split.views(number)[view].tokens) for number in range(split.sources[0].count)]
        assert one.shortest <= min(known) <= max(known) <= one.longest
        for part in one.bins:
            assert part.count >= sum(part.low <= length <= part.high for length in known)


def test_of_many_records_an_even_draw_of_blocks_is_measured(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts_module, "BLOCK", 5)
    monkeypatch.setattr(facts_module, "MEASURED", 20)
    facts = facts_of(corpus)
    measured, of = facts.measured
    assert 15 < measured <= 20 and of == facts.splits["train"].records  # four blocks, of which some may be short
    text = terminal.render(facts, 100, colour=False)
    assert f"of {measured} of {facts.splits['train'].records} training records, an even draw of blocks" in text


def test_records_are_drawn_evenly_and_always_the_same(corpus: Path) -> None:
    facts = facts_of(corpus, "--records", "3")
    assert [record.source for record in facts.records] == ["first"] * 3 + ["second"] * 3
    count = facts.sources[0].train.records
    assert [record.number for record in facts.records[:3]] == [count // 6, 3 * count // 6, 5 * count // 6]
    assert facts_of(corpus, "--records", "3").records == facts.records
    assert facts_of(corpus, "--records", "0").records == ()
    everything = facts_of(corpus, "--records", "1000")
    assert len(everything.records) == facts.splits["train"].records


def test_texts_and_places_of_records_are_those_of_the_input(corpus: Path) -> None:
    rows = {"first": FIRST, "second": SECOND}
    for record in facts_of(corpus, "--records", "1000").records:
        line = int(record.place.rpartition(":")[2])
        row = rows[record.source][line - 1]
        texts = [
            text for name in ("text", "code") for text in ([row[name]] if isinstance(row[name], str) else row[name])
        ]
        assert record.num_wordings == len(record.wordings) == len(texts)
        for wording, text in zip(record.wordings, texts, strict=True):
            joined = "".join(token.text for token in wording.tokens)
            assert wording.count == len(wording.tokens)
            assert joined == text if wording.complete else text.startswith(joined)
        titles = ["text #1", "text #2", "text #3", "code #1", "code #2"] if len(texts) == 5 else ["text", "code"]
        assert [wording.title for wording in record.wordings] == titles


@settings(max_examples=150, deadline=None)
@given(st.text(min_size=1, max_size=30).filter(lambda text: not text.endswith("\ufffd")))
def test_texts_of_tokens_join_to_the_text(tokenizer: Tokenizer, text: str) -> None:
    (ids,) = tokenizer.encode_batch([text])
    tokens = tokens_of(tokenizer, ids)
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == text
    assert all(token.shown for token in tokens)


def test_a_view_with_itself_counts_every_wording_once(tmp_path: Path) -> None:
    rows = [{"text": [f"one way {n}", f"another way {n}", f"a third {n}"]} for n in range(40)]
    source = write(tmp_path / "wordings.jsonl", rows)
    config = load_config(
        None,
        [
            f"data.sources=[{{type: jsonl, path: '{source}', fields: {{text: text}}}}]",
            "data.views=[text, text]",
            "data.heldout_fraction=0.2",
            f"data.folder='{tmp_path / 'data'}'",
            "tokenizer.vocab_size=320",
        ],
    )
    facts = facts_of(prepare(config, quiet=True))
    assert facts.view_titles == ("text",)
    assert facts.sources[0].both.wordings == (120, 0)
    assert [one.title for one in facts.histograms] == ["text, one wording", "text, another wording", "a pair"]
    assert [branch.title for branch in facts.records[0].branches] == ["text #1", "[PRED]×1", "text #2"]
    assert "mean text  truncated" in terminal.render(facts, 100, colour=False)
    assert "<th>mean text</th><th>truncated</th>" in html.render(facts)


# ---------------------------------------------------------------------------------------------------------- branches


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("layout", ["conditional", "independent"])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_branches_are_those_that_are_laid_out(
    corpus: Path, tokenizer: Tokenizer, layout: Any, direction: Any, count: int
) -> None:
    split = read_corpus(corpus).train
    branches = Branches(layout, tokenizer.eos, tokenizer.bos, tokenizer.predictors[:count], direction)
    tree, spans = lay_out(branches, *split.views(0), branched=True)
    assert spans is not None
    record = describe_record(split, "train", "first", 0, ("text", "code"), tokenizer, branches)
    assert record.num_positions == len(tree.ids)
    assert sum(branch.labels for branch in record.branches) == sum(label != IGNORE for label in tree.labels)
    assert sorted(branch.segment for branch in record.branches) == list(range(tree.num_segments))
    marks = {}
    root = None
    for branch in record.branches:
        first, last = branch.row
        assert set(tree.segments[first : last + 1]) == {branch.segment}
        assert branch.positions == (tree.positions[first], tree.positions[last])
        if branch.parent is None:
            root = branch.segment
        assert tree.parents[first] == root  # a branch stands below its root
        assert [token.id for token in branch.head] == tree.ids[first : first + len(branch.head)]
        assert [token.id for token in branch.tail] == tree.ids[last + 1 - len(branch.tail) : last + 1]
        labelled = [place for place in range(first, last + 1) if tree.labels[place] != IGNORE]
        assert branch.labelled == ((labelled[0], labelled[-1]) if labelled else None)
        assert branch.ends == (tokenizer.eos in tree.labels[first : last + 1])
        marks.update({name: (start, stop + 1) for names, start, stop in branch.marks for name in names.split(", ")})
    assert marks == {
        name: (span.start, span.stop)
        for name, span in (("source", spans.source), ("prediction", spans.prediction), ("target", spans.target))
    }
    drawn = [(branch.title, branch.parent is None) for branch in record.branches]
    expected = [("text", True), ("code", True)]
    if count:
        expected.insert(1 if direction == "forward" else 2, (f"[PRED]×{count}", False))
    if layout == "conditional":
        expected.insert(1, ("code", False))
    assert drawn == expected


def test_the_drawing_of_a_pair(corpus: Path) -> None:
    facts = facts_of(corpus, "--layout", "conditional", "--k", "2", "--records", "1")
    text = terminal.render(facts, 100, colour=False)
    first, second = (wording.count for wording in facts.records[0].wordings)
    lines = text[text.index("branches: conditional, forward, k = 2") :].splitlines()[2:6]
    start = first + 1
    assert [re.split("  +", line.strip())[:4] for line in lines] == [
        ["0", "<s> text", f"0..{first}", f"0..{first}"],
        ["1", "├─ code", f"{start}..{start + second - 1}", f"{start}..{start + second - 1}"],
        ["2", "└─ [PRED]×2", f"{start + second}..{start + second + 1}", f"{start}..{start + 1}"],
        ["3", "<s> code", f"{start + second + 2}..{start + 2 * second + 2}", f"0..{second}"],
    ]
    assert f"1 at {first} " in lines[0] and lines[0].endswith(f"source 1..{first}")
    assert f"{second} at {start}..{start + second - 1}, </s>" in lines[1]
    assert f"prediction {start + second}..{start + second + 1}" in lines[2]


# --------------------------------------------------------------------------------------------------- terminal and page


def is_harmless(text: str) -> bool:
    return not any(unicodedata.category(character)[0] == "C" and character != "\n" for character in text)


@pytest.mark.parametrize("width", [40, 72, 100, 180])
def test_terminal_text_fits_and_steers_nothing(corpus: Path, width: int) -> None:
    facts = facts_of(corpus, "--records", "1000")
    plain = terminal.render(facts, width, colour=False)
    painted = terminal.render(facts, width, colour=True)
    for text in (plain, SGR.sub("", painted)):
        assert is_harmless(text)
        assert max(columns(line) for line in text.splitlines()) <= width
    assert set(SGR.findall(painted)) == {"\x1b[1m", "\x1b[2m", "\x1b[0m", "\x1b[30;48;5;153m", "\x1b[30;48;5;223m"}


def test_terminal_text_says_all_there_is(corpus: Path) -> None:
    facts = facts_of(corpus, "--records", "1000")
    text = terminal.render(facts, 120, colour=False)
    for title in ("Corpus", "Sources", "Duplicates", "Test sets", "Bad rows", "Lengths in tokens", "Records"):
        assert f"── {title} ─" in text
    assert facts.fingerprint in text
    assert re.search(r"exam +first +2/3 +2/3 +2/3 +4/6 ", text)
    assert "dropped of first: 2 contaminated, 1 duplicate" in text
    assert "first.jsonl:61: invalid JSON" in text
    assert "|\\x1b|" in text and "|\\u202e|" in text and "|日" in text
    assert "30 tokens, truncated" in text


def test_a_long_text_is_cut_with_the_number_of_tokens_left(corpus: Path) -> None:
    facts = facts_of(corpus, "--records", "1000")
    for line in terminal.render(facts, 40, colour=False).splitlines():
        assert columns(line) <= 40
    text = terminal.render(facts, 40, colour=False)
    assert (found := re.search(r"… \(\+(\d+) tokens\)", text))
    assert 0 < int(found[1]) < 30


def test_leaks_without_a_hit_are_left_out_where_there_are_many(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "_LEAKS", 1)
    text = terminal.render(facts_of(corpus), 100, colour=False)
    assert "exam      first" in text and "exam      second" not in text
    assert "1 more rows are without a hit" in text


class Page(HTMLParser):
    """Checks that tags are closed in order; gathers what there is."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.attributes: set[str] = set()
        self.titles: list[str] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.titles += [value or "" for name, value in attrs if name == "title"]
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_is_whole_and_holds_all_sections(corpus: Path) -> None:
    facts = facts_of(corpus)
    page = Page(html.render(facts))
    assert tuple(page.ids) == SECTIONS
    text = "".join(page.text)
    for shown in (
        facts.fingerprint,
        "contaminated",
        "near" if "near" in facts.reasons else "duplicate",
        "exam",
        "a pair",
    ):
        assert shown in text
    assert "color-scheme: light dark" in text and "--ink: light-dark(" in text
    shown_tokens = [token for record in facts.records for wording in record.wordings for token in wording.tokens]
    assert len(shown_tokens) <= len(page.titles)
    assert f"{shown_tokens[0].id} {shown_tokens[0].name}" in page.titles


def test_nothing_of_the_corpus_becomes_markup(corpus: Path) -> None:
    text = html.render(facts_of(corpus, "--records", "1000"))
    page = Page(text)
    assert is_harmless(text)
    assert not page.tags & {"script", "img", "link", "iframe", "a"}
    assert page.attributes <= {
        *("charset", "class", "content", "http-equiv", "id", "lang", "name", "style", "title"),
        *("aria-label", "role", "tabindex"),  # tables that scroll are reached by the keyboard
    }
    assert "<script" not in text and "&lt;" in text
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|src=|url\(", text)


@given(st.text())
def test_visible_text_has_no_character_that_steers(text: str) -> None:
    shown = visible(text)
    assert is_harmless(shown) and "\n" not in shown
    assert not any(unicodedata.category(character) in ("Zl", "Zp") for character in shown)
    assert visible(shown) == shown


@given(st.text().map(visible), st.integers(1, 30))
def test_cut_text_fits(text: str, width: int) -> None:
    shown = cut(text, width)
    assert columns(shown) <= width
    assert shown == text or (shown.endswith("…") and text.startswith(shown[:-1]))


# ---------------------------------------------------------------------------------------------------------- histogram


@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=60))
def test_bins_hold_every_length_once(lengths: list[int]) -> None:
    found = histogram("x", np.array(lengths))
    assert isinstance(found, Histogram)
    assert 1 <= len(found.bins) <= 21
    assert sum(one.count for one in found.bins) == len(lengths)
    for one in found.bins:
        assert one.count == sum(one.low <= length <= one.high for length in lengths)
    for one, other in zip(found.bins, found.bins[1:], strict=False):
        assert other.low == one.high + 1
    assert found.bins[0].count and found.bins[-1].count
    assert found.median == sorted(lengths)[(len(lengths) - 1) // 2]
    assert found.mean == pytest.approx(sum(lengths) / len(lengths))


def test_bins_suit_the_lengths() -> None:
    def bins(lengths: list[int]) -> list[tuple[int, int, int]]:
        found = histogram("x", np.array(lengths))
        assert found is not None
        return [(one.low, one.high, one.count) for one in found.bins]

    assert bins([7, 7, 7]) == [(7, 7, 3)]
    assert bins([3, 5, 5]) == [(3, 3, 1), (4, 4, 0), (5, 5, 2)]
    assert bins(list(range(1, 101)))[:2] == [(0, 4, 4), (5, 9, 5)]
    assert bins([1, 2, 3, 3, 1000])[:3] == [(1, 1, 1), (2, 3, 3), (4, 7, 0)]  # most are short: each twice as wide
    assert bins([1, 2, 3, 3, 1000])[-1] == (512, 1023, 1)
    assert histogram("x", np.zeros(0, np.int64)) is None


@given(st.integers(0, 1000), st.integers(0, 50))
def test_spread_numbers_are_distinct_and_in_order(total: int, count: int) -> None:
    numbers = spread(total, count)
    assert len(numbers) == min(total, count)
    assert numbers == sorted(set(numbers))
    assert all(0 <= number < total for number in numbers)


# ------------------------------------------------------------------------------------------------------------- command


def test_what_else_is_not_trained_on_is_told(corpus: Path) -> None:
    facts = facts_of(corpus)
    first = dataclasses.replace(facts.sources[0], left_out=1200, dropped_wordings={"equal_views": 3})
    facts = dataclasses.replace(facts, sources=(first, *facts.sources[1:]), notes=("groups meet by name alone",))
    for page in (terminal.render(facts, 120, colour=False), html.render(facts)):
        assert "left out of first by its keep rule: 1,200 rows" in page
        assert "wordings dropped of other records of first: 3 equal_views" in page
        assert "groups meet by name alone" in page


def test_the_command_prints_and_writes_the_page_anew(corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = corpus / "inspect.html"
    page.write_text("old")
    assert main([str(corpus.parent)]) == 0  # the data folder: it holds one corpus
    printed = capsys.readouterr().out
    assert "── Records ─" in printed and "\x1b" not in printed
    assert printed.endswith(f"page: {page}\n")
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    page.unlink()
    assert main([str(corpus), "--html", "none"]) == 0
    assert not page.exists() and "page:" not in capsys.readouterr().out
    assert [path.name for path in corpus.iterdir() if path.name.startswith(".")] == []


def test_another_file_is_only_replaced_if_asked(
    corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "page.html"
    assert main([str(corpus), f"--html={page}"]) == 0
    page.write_text("mine")
    with pytest.raises(DiptychError, match="exists already; choose another file or give --overwrite"):
        main([str(corpus), "--html", str(page)])
    assert page.read_text() == "mine"
    assert main([str(corpus), "--html", str(page), "--overwrite"]) == 0
    assert page.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    with pytest.raises(DiptychError, match="is a folder"):
        main([str(corpus), "--html", str(tmp_path)])
    with pytest.raises(DiptychError, match="there is no folder"):
        main([str(corpus), "--html", str(tmp_path / "none" / "page.html")])


def test_a_config_gives_its_corpus_layout_and_k(corpus: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    source = write(tmp_path / "pairs.jsonl", FIRST[:59])
    config.write_text(
        f"data: {{sources: [{{type: jsonl, path: '{source}'}}], views: [text, code], folder: '{tmp_path / 'data'}',"
        " heldout_fraction: 0.3}\ntokenizer: {vocab_size: 360}\npacking: {layout: conditional, row_length: 512}\n"
        "objective: {predictors: 3, direction: reverse}\n"
    )
    facts = find_facts(read_arguments([str(config), "--html", "none"]))  # prepares it
    assert facts.folder.parent == tmp_path / "data"
    branches = facts.branches
    assert (branches.layout, len(branches.predictors), branches.direction) == ("conditional", 3, "reverse")
    again = find_facts(read_arguments([str(config), "--k=1", "--layout=independent", "objective.direction=forward"]))
    assert again.folder == facts.folder
    assert (again.branches.layout, len(again.branches.predictors)) == ("independent", 1)
    assert again.branches.direction == "forward"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--recods", "3"], "--recods: unknown option; did you mean --records?"),
        (["--layuot=independent"], "--layuot: unknown option; did you mean --layout?"),
        (["-z"], "-z: unknown option; known: --records, "),
        (["--layout", "conditonal"], "--layout: 'conditonal' is no layout; did you mean conditional?"),
        (["--records", "-1"], "--records: '-1': needs a whole number of at least 0"),
        (["--records", "9" * 5000], "--records: '9999.*: needs a whole number"),
        (["--k", "two"], "--k: 'two': needs a whole number of at least 0"),
        (["--records"], "--records: needs a value"),
        (["data.folder=x"], "data.folder=x: settings go with a config.yaml"),
        (["--k", "5"], r"--k: 5 \[PRED\] tokens, but the tokenizer of .* has 4"),
    ],
)
def test_wrong_arguments_are_refused(corpus: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(DiptychError, match=message):
        main([str(corpus), *arguments])


def test_without_data_nothing_happens() -> None:
    with pytest.raises(DiptychError, match="DATA: is missing"):
        main([])


def copy(corpus: Path, folder: Path) -> Path:
    for path in corpus.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(corpus)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


def test_what_is_no_whole_corpus_is_refused(corpus: Path, tmp_path: Path) -> None:
    def refused(data: Path, message: str) -> None:
        with pytest.raises(DiptychError, match=message):
            main([str(data), "--html", "none"])

    refused(tmp_path / "missing", "missing: no such file or folder")
    refused(write(tmp_path / "file.txt", []), "file.txt: is a file; name the folder")
    refused(tmp_path, "holds no prepared corpus .*; run python -m pretrain.prepare")
    (tmp_path / "data" / "abc.partial").mkdir(parents=True)
    refused(tmp_path / "data", "abc.partial: holds half a corpus, its preparation was stopped")
    refused(tmp_path / "data" / "abc.partial", "abc.partial: holds half a corpus")

    broken = copy(corpus, tmp_path / "cut")
    shard = next(broken.glob("train/first/*.arrow"))
    shard.write_bytes(shard.read_bytes()[:-10])
    refused(broken, f"{shard}: missing or cut short")
    broken = copy(corpus, tmp_path / "manifest")
    (broken / "manifest.json").write_text('{"fingerprint": ')
    refused(broken, "manifest.json: damaged, or of another version; remove .* and prepare it again")
    (broken / "manifest.json").write_text('{"fingerprint": "abc"}')
    refused(broken, "manifest.json: damaged, or of another version")


def test_of_several_corpora_one_must_be_named(corpus: Path, tmp_path: Path) -> None:
    copy(corpus, tmp_path / "one")
    copy(corpus, tmp_path / "two")
    (tmp_path / "two" / "manifest.json").write_text("no json")
    with pytest.raises(DiptychError) as caught:
        main([str(tmp_path)])
    head, one, two = str(caught.value).splitlines()
    assert head == f"{tmp_path}: holds 2 corpora; name one of them"
    assert re.fullmatch(rf"  {tmp_path}/one  \d{{4}}-\d\d-\d\d \d\d:\d\d  78 records of first, second", one)
    assert two.startswith(f"  {tmp_path}/two  ") and two.endswith("  cannot be read")
