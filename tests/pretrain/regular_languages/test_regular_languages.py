"""Regexes as automata: exact cases, Python's ``re``, brute force over all short lines, and real NL-RX regexes."""

import itertools
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.regular_languages import (
    RegexSyntaxError,
    TooComplex,
    difference,
)
from pretrain.regular_languages.alphabet import Alphabet
from pretrain.regular_languages.syntax import (
    Both,
    Boundary,
    Characters,
    Either,
    Expression,
    Not,
    Repeat,
    Sequence,
    characters,
    parse,
    without,
)
from tests.support.regexes import equivalent, is_empty, is_universal, matches

WORD = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def lines(alphabet: str, longest: int) -> list[str]:
    """All lines over an alphabet up to a length."""
    return ["".join(line) for size in range(longest + 1) for line in itertools.product(alphabet, repeat=size)]


def spans(tree: Expression, line: str) -> set[tuple[int, int]]:
    """The stretches of a line that an expression matches, straight from the definition of each operator."""
    size = len(line)
    everywhere = {(start, stop) for start in range(size + 1) for stop in range(start, size + 1)}
    here = {(place, place) for place in range(size + 1)}
    match tree:
        case Characters(kind):
            return {
                (at, at + 1)
                for at, character in enumerate(line)
                if any(low <= ord(character) <= high for low, high in kind)
            }
        case Boundary(at):
            word = [False, *(character in WORD for character in line), False]
            return {(place, place) for place in range(size + 1) if (word[place] != word[place + 1]) == at}
        case Sequence(items):
            found = here
            for item in items:
                after = spans(item, line)
                found = {(start, stop) for start, middle in found for begin, stop in after if begin == middle}
            return found
        case Either(items):
            return set().union(*(spans(item, line) for item in items))
        case Both(items):
            return everywhere.intersection(*(spans(item, line) for item in items))
        case Not(item):
            return everywhere - spans(item, line)
        case Repeat(item, low, high):
            once = spans(item, line)
            turns = [here]
            for _ in range(high if high is not None else low + size + 1):
                turns.append({(start, stop) for start, middle in turns[-1] for begin, stop in once if begin == middle})
            return set().union(*turns[low:])


ATOMS = st.sampled_from([".", "a", "b", "0", "-", "[ab]", "[^a]", r"\w", r"\W", r"\b", r"\B", "ab", "a-"])
REGEXES = st.recursive(
    ATOMS,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda both: f"({both[0]})|({both[1]})"),
        st.tuples(inner, inner).map(lambda both: f"({both[0]})&({both[1]})"),
        inner.map(lambda one: f"~({one})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{2,}", "{1,2}", "{0,2}"])).map(
            lambda both: f"({both[0]}){both[1]}"
        ),
    ),
    max_leaves=6,
)
LOOPS = st.recursive(
    st.sampled_from([".", "a", "b", "0", "[ab]", "[^a]", r"\w", r"\W", r"\d", "a-"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda both: f"({both[0]}|{both[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "{2}", "{2,}", "{1,2}"])).map(
            lambda both: f"({both[0]}){both[1]}"
        ),
    ),
    max_leaves=4,
)
# Boundaries outside repeats only: a turn of Python's loops that is empty ends the loop.
PIECES = st.lists(st.one_of(LOOPS, st.sampled_from([r"\b", r"\B"])), max_size=5).map("".join)
PYTHON_REGEXES = st.lists(PIECES, min_size=1, max_size=2).map("|".join)
SHORT = lines("ab0-", 3)
EVERY_KIND = lines("ab0-c ", 3)  # what REGEXES tell apart, another character of a word and another of none


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(REGEXES)
def test_matches_what_the_definition_says(regex: str) -> None:
    tree = parse(regex)
    for line in SHORT:
        assert matches(regex, line) == ((0, len(line)) in spans(tree, line)), line


@settings(max_examples=80, deadline=None)
@given(PYTHON_REGEXES)
def test_agrees_with_python_where_python_has_the_syntax(regex: str) -> None:
    compiled = re.compile(regex, re.ASCII)
    for line in SHORT:
        if line or r"\B" not in regex:  # Python before 3.14 has no \B in an empty string
            assert matches(regex, line) == (compiled.fullmatch(line) is not None), line


@settings(max_examples=80, deadline=None)
@given(REGEXES, REGEXES)
def test_difference_is_a_shortest_one_and_none_means_none(left: str, right: str) -> None:
    trees = parse(left), parse(right)
    apart = [line for line in EVERY_KIND if len({(0, len(line)) in spans(tree, line) for tree in trees}) == 2]
    found = difference(left, right)
    assert equivalent(left, right) == (found is None)
    if found is None or len(found) > 3:
        assert apart == []
    else:
        assert len({(0, len(found)) in spans(tree, found) for tree in trees}) == 2
        assert len(found) == min(map(len, apart))


@settings(max_examples=40, deadline=None)
@given(REGEXES, REGEXES)
def test_laws_of_sets(left: str, right: str) -> None:
    assert equivalent(f"~(({left})|({right}))", f"~({left})&~({right})")
    assert equivalent(f"({left})&({right})", f"({right})&({left})")
    assert is_empty(f"({left})&~({left})")
    assert is_universal(f"({left})|~({left})")


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("(a|b)*", "(a*b*)*"),
        ("a{2,4}", "aa|aaa|aaaa"),
        ("(.*a.*){3,}", "(.*a){3}.*"),
        ("(.*[0-9].*)&(.*[a-z].*)", ".*[0-9].*[a-z].*|.*[a-z].*[0-9].*"),
        ("~(.*dog.*)&dog", "[A-Z]&dog"),
        (r".*\bdog\b.*", r"(.*\W)?dog(\W.*)?"),
        (r"~(.*\b.*)", r"\W*"),
        (r"\w\b\w", "~(.*)"),
        (r"(\b|a){3}", r"a{1,3}"),
        ("~a*", "(~(a))*"),
        ("ab|c&d", "(ab)|((c)&(d))"),
        ("[^a]|a", "."),
        (r"\d\W", "[0-9][^A-Za-z0-9_]"),
        ("(|a)b", "a?b"),
        ("é|\U0001f600", "[\U0001f600é]"),
        ("((a?){30}){20}", "a{0,600}"),
    ],
)
def test_equivalent(left: str, right: str) -> None:
    assert difference(left, right) is None


@pytest.mark.parametrize(
    ("left", "right", "line"),
    [
        ("a*", "a+", ""),
        ("(.*a.*){3,}", "(.*a.*){4,}", "aaa"),
        (r".*\bdog\b.*", ".*dog.*", "adog"),
        ("[a-y]", "[a-z]", "z"),
        (".", "[ -~]", "\x00"),
        ("a~(b)c", "ac", "aac"),
        ("([A-Z])&(.)", "[A-Z]|[0-9]", "0"),
        ("é", "e", "e"),
    ],
)
def test_difference(left: str, right: str, line: str) -> None:
    assert difference(left, right) == line
    assert matches(left, line) != matches(right, line)


def test_empty_and_universal() -> None:
    assert is_empty("[0-9]&[a-z]")
    assert is_empty(r"a\bb")
    assert not is_empty("")
    assert is_universal(".*a.*|~(.*a.*)")
    assert not is_universal(".+")


def test_other_white_space_is_in_a_line() -> None:
    assert matches("[\t-\r]", "\r")
    assert equivalent("[\t-\r]", "[\t\x0b-\r]")


@pytest.mark.parametrize(
    ("regex", "problem"),
    [
        ("(a", "column 3: '(' without ')'"),
        ("a)", "column 2: ')' without '('"),
        ("[a", "column 3: ends within a class"),
        ("[]", "column 3: a class without characters"),
        ("[z-a]", "column 5: the range of characters is empty"),
        ("*a", "column 1: '*' has no meaning here"),
        ("a+?", "column 3: a repeat of a repeat"),
        ("a{3,2}", "column 7: the upper bound"),
        ("a{x}", "column 3: expected a number"),
        ("a{2", "column 4: expected {n}"),
        ("^a", "column 1: '^' has no meaning here"),
        (r"(a)\1", "column 5: '\\1' is not part"),
        ("a\\", "column 3: ends within an escape"),
        ("~", "column 2: ends within an expression"),
        ("(" * 61 + "a" + ")" * 61, "more than 60 groups"),
        ("~" * 61 + "a", "more than 60 groups"),
    ],
)
def test_syntax_errors_name_the_place(regex: str, problem: str) -> None:
    with pytest.raises(RegexSyntaxError, match=re.escape(problem)):
        parse(regex)


def test_too_many_states_is_an_error_of_its_own() -> None:
    with pytest.raises(TooComplex, match="more than 1000 pairs of states"):
        difference(".*a.{12}", ".*a.{13}", max_states=1000)
    assert difference(".*a.{6}", ".*a.{7}", max_states=1000) == "a" * 7
    with pytest.raises(TooComplex):
        equivalent("(a{1,30}b?){1,30}&~(a*)", "((a{1,30}b?){1,31})&~(a*)", max_states=200)
    with pytest.raises(TooComplex, match="more than 20 expressions"):
        difference("abcdefghijklmnopqrstuvwxyz", "a", max_states=2)
    with pytest.raises(TooComplex, match="parts of unions"):
        equivalent("((a?){3000}){2}", "a{0,6000}", max_states=1000)
    assert not equivalent("a{5,99999999}", "a{4,99999999}")


def test_alphabet_keeps_sets_apart() -> None:
    vowels, small = characters("aeiou"), characters("abcdefghijklmnopqrstuvwxyz")
    alphabet = Alphabet([vowels, small])
    assert sorted(alphabet.samples) == sorted(["a", "b", "A", " "])
    assert alphabet.symbol("e") == alphabet.symbol("u") != alphabet.symbol("z")
    assert alphabet.symbol("Z") == alphabet.symbol("_") == alphabet.symbol("7")
    assert alphabet.symbol("é") == alphabet.symbol("-")
    assert alphabet.symbol("\n") == -1
    assert alphabet.mask(small) & alphabet.word == alphabet.mask(small)
    assert without(without(small)) == small


def test_nl_rx_regexes_are_all_decided(shared: Path) -> None:
    with (shared / "data/nlrx_synth/test.jsonl").open(encoding="utf-8") as rows:
        regexes = [json.loads(row)["code"] for row in rows]
    assert len(regexes) == 2000
    others = random.Random(0).sample(regexes, len(regexes))
    equal = sum(equivalent(left, right) for left, right in zip(regexes, others, strict=True))  # none is too complex
    assert 0 < equal < 200
    assert sum(map(is_empty, regexes)) == 312  # "a digit & a capital" on one character, and the like
