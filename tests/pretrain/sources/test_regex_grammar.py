"""The regex grammar: the same on every call, varied, and every regex says what its meaning says."""

import pickle
import random
import re
import subprocess
import sys

import pytest
from pydantic import ValidationError

from pretrain.sources.files import Files
from pretrain.sources.record import Record
from pretrain.sources.synthetic import regex_grammar
from pretrain.sources.synthetic.regex_grammar import TEXTS, RegexGrammarSource
from pretrain.sources.synthetic.regex_grammar.check import is_sound
from pretrain.sources.synthetic.regex_grammar.machine import Machine, holds, machine
from pretrain.sources.synthetic.regex_grammar.meaning import (
    Begins,
    Condition,
    Consists,
    Denied,
    Ends,
    InOrder,
    Joined,
    SomeWord,
    Thing,
    Times,
    singles,
)
from pretrain.sources.synthetic.regex_grammar.wording import word
from pretrain.sources.synthetic.reviews import Draw
from tests.support.regexes import is_empty, is_universal, matches

DIGIT, CAPITAL, SMALL, VOWEL, ANY = (
    Thing("kind", name) for name in ("digit", "capital", "small", "vowel", "character")
)
FOX, OWL = Thing("text", "fox"), Thing("text", "owl")


def accepts(reader: Machine, line: str) -> bool:
    state = reader.start
    for character in line:
        state = reader.step(state, character)
    return reader.accepts(state)


def says(condition: Condition, line: str) -> bool:
    """Whether a condition holds for a line, by its machines."""
    return holds(condition, {single: accepts(machine(single), line) for single in singles(condition)})


@pytest.fixture(scope="module")
def records() -> list[Record]:
    source = RegexGrammarSource(count=600)
    return [record for part in source.parts(Files()) for record in source.read(part)]


@pytest.mark.parametrize(
    ("condition", "regex", "yes", "no"),
    [
        (InOrder((FOX,)), ".*fox.*", ["fox", "a foxy"], ["", "fo x"]),
        (InOrder((FOX, OWL)), ".*fox.*owl.*", ["fox owl", "foxowl"], ["owl fox", "foxwl"]),
        (InOrder((DIGIT, DIGIT, VOWEL)), ".*[0-9].*[0-9].*[AEIOUaeiou].*", ["12a", "1b2 a"], ["1a2", "a12"]),
        (
            InOrder((Thing("chain", parts=(FOX, ANY, DIGIT)),)),
            ".*fox.[0-9].*",
            ["fox 1", "foxfox12"],
            ["fox1", "fox  1"],
        ),
        (Times(DIGIT, 3, None), "(.*[0-9]){3,}.*", ["123", "1 2 3 4"], ["12", ""]),
        (Times(FOX, 0, 2), "~((.*fox){3,}.*)", ["", "foxfox"], ["fox fox fox"]),
        (Times(FOX, 1, 1), "((.*fox)+.*)&~((.*fox){2,}.*)", ["a fox"], ["", "foxfox"]),
        (Begins(Thing("chain", parts=(ANY, CAPITAL))), ".[A-Z].*", ["aA", "AA "], ["A", "Aa"]),
        (Ends(Thing("either", parts=(FOX, DIGIT))), ".*(fox|[0-9])", ["a fox", "7"], ["fo", "7 "]),
        (Consists(SMALL, 2, 3), "[a-z]{2,3}", ["ab", "abc"], ["a", "abcd", "a b"]),
        (Consists(FOX, 1, None), "(fox)+", ["fox", "foxfox"], ["", "fox fox", "foxf"]),
        (SomeWord(Begins(SMALL)), r".*\b[a-z].*", ["A b", "-x"], ["Ab", "_a"]),
        (SomeWord(Ends(OWL)), r".*owl\b.*", ["a fowl.", "owl"], ["owls", "owl_"]),
        (SomeWord(Consists(FOX, 1, 1)), r".*\bfox\b.*", ["fox", "a-fox."], ["foxy", "fox1", "afox"]),
        (SomeWord(Consists(DIGIT, 2, None)), r".*\b[0-9]{2,}\b.*", ["a 12"], ["1 2", "a12"]),
        (Denied(Ends(DIGIT)), "~(.*[0-9])", ["", "1a"], ["a1"]),
        (Joined(True, (Begins(FOX), Ends(DIGIT))), "(fox.*)&(.*[0-9])", ["fox1"], ["fox", "1"]),
        (Joined(False, (Begins(FOX), Denied(Ends(DIGIT)))), "(fox.*)|~(.*[0-9])", ["fox1", "", "a"], ["1"]),
    ],
)
def test_conditions(condition: Condition, regex: str, yes: list[str], no: list[str]) -> None:
    assert condition.regex == regex
    for line in yes + no:
        assert matches(regex, line) == says(condition, line) == (line in yes), line
    assert is_sound(condition, regex)


def test_a_wrong_regex_is_an_error_of_the_grammar() -> None:
    with pytest.raises(RuntimeError, match="says something else"):
        is_sound(Begins(FOX), ".*fox.*")
    with pytest.raises(RuntimeError, match="says something else"):
        is_sound(SomeWord(Consists(FOX, 1, 1)), ".*fox.*")
    with pytest.raises(RuntimeError, match="spells no regex"):
        is_sound(Begins(FOX), "(fox")


@pytest.mark.parametrize(
    "condition",
    [
        Consists(ANY, 0, None),
        Joined(True, (Consists(DIGIT, 1, None), InOrder((FOX,)))),
        Joined(True, (InOrder((DIGIT,)), Times(DIGIT, 2, None))),
        Joined(False, (InOrder((SMALL,)), InOrder((FOX,)))),
        Joined(False, (Begins(FOX), Denied(Begins(FOX)))),
        Joined(True, (Begins(FOX), Joined(False, (Ends(DIGIT), Begins(Thing("text", "fo")))))),
    ],
)
def test_what_says_nothing_or_has_an_idle_part_is_not_sound(condition: Condition) -> None:
    assert not is_sound(condition, condition.regex)


def test_every_regex_says_what_its_meaning_says(records: list[Record]) -> None:
    source = RegexGrammarSource()
    draw = random.Random(0)
    told = 0
    for index in range(150):
        meaning = source.meaning(index)
        (regex,) = records[index].views["code"]
        assert meaning.regex == regex
        pieces = [*re.findall(r"[A-Za-z0-9]+", regex), *"aZ7 _-", "b", "e", "0"]
        lines = ["".join(draw.choices(pieces, k=draw.randrange(7))) for _ in range(8)]
        for line in lines:
            assert matches(regex, line) == says(meaning, line), (regex, line)
        told += len({says(meaning, line) for line in lines}) == 2
        assert not is_empty(regex)
        assert not is_universal(regex)
    assert told > 75  # the lines put it to the test


def test_variety(records: list[Record]) -> None:
    texts = [record.views["text"][0] for record in records]
    regexes = [record.views["code"][0] for record in records]
    assert len(set(texts)) / len(texts) > 0.99
    assert len(set(regexes)) / len(regexes) > 0.95
    signs = {sign: sum(sign in regex for regex in regexes) / len(regexes) for sign in ("&", "|", "~", r"\b", "{")}
    assert all(share > 0.1 for share in signs.values()), signs
    for text in texts:
        assert re.fullmatch(r"[A-Za-z][^<>{}\n]*", text) and "  " not in text, text
        assert not re.search(r"\ba an?\b|\b(a|an) (a|an|either|the)\b|\b1 times|\bone times", text), text


def test_texts_do_not_overlap_themselves() -> None:
    made = [regex_grammar._text(Draw(f"test/{index}")).name for index in range(2000)]
    for text in {*TEXTS, *made}:
        assert not any(text.startswith(text[at:]) for at in range(1, len(text))), text
    assert len(set(TEXTS)) == len(TEXTS)


def test_wordings_differ_and_are_inflected() -> None:
    condition = Joined(True, (InOrder((FOX,)), Denied(Ends(DIGIT))))
    texts = {word(Draw(f"test/{index}"), condition) for index in range(200)}
    assert len(texts) > 190
    for text in texts:
        verb = re.search(r"(contain|have|has|include|hold|show)(s?)\b", text)
        assert verb is not None
        singular = re.search(r"\b(it|line) |line that|each|any line|every", text.replace("lines", "LINES")) is not None
        assert (verb[0] == "has" or verb[2] == "s") == singular, text


def test_the_same_on_every_call_and_by_seed_and_number_only(records: list[Record]) -> None:
    again = RegexGrammarSource(count=5)
    assert [again.record(index) for index in range(5)] == records[:5]
    assert RegexGrammarSource(count=90_000).record(500) == records[500]
    assert RegexGrammarSource(seed=1).record(0) != records[0]
    code = (
        "from pretrain.sources.synthetic.regex_grammar import RegexGrammarSource as S;"
        "print([S().record(i).views['text'] for i in range(5)])"
    )
    for hash_seed in ("1", "2"):
        told = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": hash_seed}, capture_output=True, text=True, check=True
        )
        assert told.stdout.strip() == str([record.views["text"] for record in records[:5]])


def test_parts_cover_all_records_once(records: list[Record]) -> None:
    source = RegexGrammarSource(count=4050)
    parts = source.parts(Files())
    bounds = [(part.start, part.stop, part.first_line) for part in parts]
    assert bounds == [(0, 2000, 1), (2000, 4000, 2001), (4000, 4050, 4001)]
    assert len({part.fingerprint for part in parts}) == 3
    assert [record.line for record in source.read(parts[2])] == list(range(4001, 4051))
    assert [record.line for record in records] == list(range(1, 601))
    assert {record.file for record in records} == {"regex_grammar"}
    assert records[0].place == "regex_grammar:1"
    assert all(set(record.views) == {"text", "code"} and record.label is None for record in records)
    part = RegexGrammarSource(count=30).parts(Files())[0]
    assert list(source.read(pickle.loads(pickle.dumps(part)))) == records[:30]


def test_fingerprints_change_with_what_a_part_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    def first(**settings: object) -> str:
        return RegexGrammarSource.model_validate(settings).parts(Files())[0].fingerprint

    same = first()
    assert first(count=5000, name="other") == same
    changed = [first(count=5), first(seed=1), first(max_parts=2), first(views=("a", "b"))]
    monkeypatch.setattr(regex_grammar, "_digest", lambda: "another grammar")
    assert len({same, first(), *changed}) == 6


def test_max_parts_bounds_the_conditions() -> None:
    for most in (1, 2, 3):
        source = RegexGrammarSource(max_parts=most)
        assert max(len(singles(source.meaning(index))) for index in range(60)) == most


def test_settings() -> None:
    source = RegexGrammarSource(views=("english", "regex"))
    assert source.view_names() == ("english", "regex")
    assert list(source.record(0).views) == ["english", "regex"]
    assert pickle.loads(pickle.dumps(source)) == source
    assert source.title == "regex_grammar"
    for wrong in (
        {"views": ("a", "a")},
        {"views": ("a", "")},
        {"views": ("a", "b", "c")},
        {"count": 0},
        {"max_parts": 4},
    ):
        with pytest.raises(ValidationError):
            RegexGrammarSource.model_validate(wrong)
