"""The embedded review corpus: determinism, independent wordings, readable English, and no easy way to the label."""

import hashlib
import itertools
import random
import re

import pytest
from pydantic import ValidationError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from pretrain.sources import Files, Record
from pretrain.sources.synthetic import reviews_lexicon as lexicon
from pretrain.sources.synthetic.reviews import Draw, Foil, Meaning, Opinion, ReviewsSource, word_meaning
from pretrain.sources.synthetic.reviews_lexicon import (
    ASPECTS,
    DOMAINS,
    GENERIC_BAD,
    GENERIC_GOOD,
    ITEMS,
    NOUNS,
    Domain,
)

SOURCE = ReviewsSource(count=20_000)


def read(source: ReviewsSource) -> list[Record]:
    return [record for part in source.parts(Files()) for record in source.read(part)]


@pytest.fixture(scope="module")
def corpus() -> list[Record]:
    return read(SOURCE)


@pytest.fixture(scope="module")
def texts(corpus: list[Record]) -> list[str]:
    return [text for record in corpus for text in wordings(record)]


def wordings(record: Record) -> list[str]:
    """The text of every view; each has one."""
    return [text for (text,) in record.views.values()]


def words(text: str) -> set[str]:
    return set(re.findall(r"[a-z'-]+", text.lower()))


def overlap(left: str, right: str) -> float:
    return len(words(left) & words(right)) / len(words(left) | words(right))


def names_pattern(aspect: str) -> re.Pattern[str]:
    names = "|".join(re.escape(name.lstrip("+")) for name in ASPECTS[aspect].names)
    return re.compile(rf"\b(?:{names})\b", re.IGNORECASE)


NAMES = {
    domain: {aspect: names_pattern(aspect) for item in ITEMS[domain].values() for aspect in item.aspects}
    for domain in DOMAINS
}


def mentioned(text: str, domain: Domain) -> set[str]:
    """Read the aspects off a text by their names."""
    return {aspect for aspect, pattern in NAMES[domain].items() if pattern.search(text)}


# ------------------------------------------------------------------------------------------------------- the source


def test_a_record_depends_on_the_seed_and_its_index_only(corpus: list[Record]) -> None:
    short = read(ReviewsSource(count=50))
    assert short == corpus[:50] == read(ReviewsSource(count=50))
    assert short != read(ReviewsSource(count=50, seed=1))
    assert [record.place for record in short] == [f"reviews:{line}" for line in range(1, 51)]


def test_parts_are_ranges_that_know_the_grammar(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = SOURCE.parts(Files())
    assert [(part.start, part.stop, part.first_line) for part in parts] == [
        (start, start + 5000, start + 1) for start in range(0, 20_000, 5000)
    ]
    assert ReviewsSource(count=5001).parts(Files())[0] == parts[0]
    assert [part.stop for part in ReviewsSource(count=5001).parts(Files())] == [5000, 5001]
    others = [ReviewsSource(seed=1), ReviewsSource(views=("a", "b")), SOURCE]
    fingerprints = {source.parts(Files())[0].fingerprint for source in others}
    assert len(fingerprints | {part.fingerprint for part in parts}) == 2 + 4
    monkeypatch.setattr(lexicon, "INTROS", ("this is about a {item}",))
    assert SOURCE.parts(Files())[0].fingerprint != parts[0].fingerprint
    assert next(iter(SOURCE.read(parts[3]))).line == 15_001


def test_global_random_state_plays_no_part(corpus: list[Record]) -> None:
    random.seed(3)
    state = random.getstate()
    assert read(ReviewsSource(count=1)) == corpus[:1]
    assert random.getstate() == state


def test_more_views_leave_the_first_ones_as_they_are(corpus: list[Record]) -> None:
    wide = ReviewsSource(count=200, views=("a", "b", "c", "d"))
    for record, narrow in zip(read(wide), corpus, strict=False):
        assert list(record.views) == ["a", "b", "c", "d"]
        assert wordings(record)[:2] == wordings(narrow)
        assert record.label == narrow.label
        assert len(set(wordings(record))) == 4


def test_the_corpus_is_the_same_on_every_machine(corpus: list[Record]) -> None:
    # Fails by design when the grammar changes: results on the old corpus are then no longer comparable. Renew it.
    stream = "\n".join(text for record in corpus[:500] for text in wordings(record))
    assert (
        hashlib.sha256(stream.encode()).hexdigest()
        == "8d8d18b7b29c8af226f575cfca2494b7873dbeb0f5b8033d7b70a82f74acd97b"
    )


@pytest.mark.parametrize(
    "options",
    [{"views": ("one",)}, {"views": ("same", "same")}, {"views": ("", "b")}, {"count": 0}, {"colour": "red"}],
)
def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ReviewsSource.model_validate(options)


# ------------------------------------------------------------------------------------------------------- the label


def test_labels_are_balanced(corpus: list[Record]) -> None:
    assert 0.48 < sum(record.label or 0 for record in corpus) / len(corpus) < 0.52


@pytest.mark.slow
def test_a_bag_of_ngrams_does_not_read_the_label(corpus: list[Record]) -> None:
    for view in SOURCE.views:
        reviews = [record.views[view][0] for record in corpus[:10_000]]
        labels = [record.label for record in corpus[:10_000]]
        vectors = TfidfVectorizer(ngram_range=(1, 2))
        model = LogisticRegression(max_iter=1000).fit(vectors.fit_transform(reviews[:8000]), labels[:8000])
        accuracy = model.score(vectors.transform(reviews[8000:]), labels[8000:])
        print(f"TF-IDF (1-2-grams) and logistic regression on view {view!r}: {accuracy:.1%}")
        assert 0.52 < accuracy < 0.80


GOOD_PLOT, BAD_PLOT = Opinion("plot", True, 2), Opinion("plot", False, 2)
GOOD_MUSIC, BAD_MUSIC = Opinion("music", True, 3), Opinion("music", False, 3)
BAD_SCRIPT = Opinion("script", False, 1)


@pytest.mark.parametrize(
    ("meaning", "label"),
    [
        (Meaning("film", "western", (GOOD_PLOT,)), 1),
        (Meaning("film", "western", (BAD_PLOT, BAD_MUSIC)), 0),
        # The deciding side outvotes the conceded one, whatever their numbers and strengths.
        (Meaning("film", "western", (GOOD_PLOT,), (BAD_MUSIC, BAD_SCRIPT)), 1),
        (Meaning("film", "western", (BAD_SCRIPT,), (GOOD_MUSIC, GOOD_PLOT)), 0),
        # A foil is what was thought before; it decides nothing.
        (Meaning("film", "western", (BAD_PLOT,), foil=Foil("reputation", confirmed=False)), 0),
        (Meaning("film", "western", (GOOD_PLOT,), foil=Foil("expectation", confirmed=True)), 1),
    ],
)
def test_the_label_follows_from_the_meaning(meaning: Meaning, label: int) -> None:
    assert meaning.label == label


def test_contradictory_meanings_are_refused() -> None:
    with pytest.raises(ValueError, match="deciding"):
        Meaning("film", "western", (GOOD_PLOT, BAD_MUSIC))
    with pytest.raises(ValueError, match="deciding"):
        Meaning("film", "western", ())
    with pytest.raises(ValueError, match="conceded"):
        Meaning("film", "western", (GOOD_PLOT,), (GOOD_MUSIC,))


@pytest.mark.parametrize("confirmed", [True, False])
def test_who_is_right_about_a_bad_film_has_run_it_down(confirmed: bool) -> None:
    meaning = Meaning("film", "western", (BAD_PLOT,), foil=Foil("reputation", confirmed))
    wordings = [word_meaning(Draw(f"test {number}"), meaning) for number in range(300)]
    claims = [found[1] for text in wordings if (found := re.search(r"Everyone says that [\w ]+ is (an? \w+);", text))]
    assert len(claims) > 10
    assert all(claim in NOUNS[not confirmed] for claim in claims)


def test_praise_and_blame_change_places_with_the_verdict() -> None:
    """The same denial says the opposite of the opposite predicate."""
    for good in (True, False):
        meaning = Meaning("film", "western", (Opinion("plot", good, 2),))
        wordings = [word_meaning(Draw(f"test {number}"), meaning) for number in range(1000)]
        denied = [found[1] for text in wordings if (found := re.search(r"I would not call the \w+ ([\w-]+)\.", text))]
        assert denied
        predicates = (*ASPECTS["plot"].bad, *GENERIC_BAD) if good else (*ASPECTS["plot"].good, *GENERIC_GOOD)
        assert set(denied) <= set(predicates)


def test_a_word_of_praise_is_at_home_in_both_classes(corpus: list[Record]) -> None:
    """The same predicates are affirmed in one class and denied or outweighed in the other."""
    for word in ("convincing", "sturdy", "flimsy", "muddled", "disappointing", "impressive"):
        labels = [record.label or 0 for record in corpus if word in record.views["review"][0]]
        assert len(labels) > 50
        assert 0.2 < sum(labels) / len(labels) < 0.8


# ------------------------------------------------------------------------------------------------------- the views


def test_views_share_the_meaning_and_few_words(corpus: list[Record]) -> None:
    paired = [overlap(*wordings(record)) for record in corpus[:4000]]
    groups: dict[tuple[str, int | None], list[Record]] = {}
    for index, record in enumerate(corpus[:4000]):
        groups.setdefault((SOURCE.meaning(index).domain, record.label), []).append(record)
    unpaired = [
        overlap(left.views["review"][0], right.views["paraphrase"][0])
        for group in groups.values()
        for left, right in itertools.pairwise(group)
    ]
    same, other = sum(paired) / len(paired), sum(unpaired) / len(unpaired)
    print(f"word overlap of two views: {same:.3f}; of two records alike in domain and label: {other:.3f}")
    assert other < same < 0.30
    assert same - other < 0.15


def test_both_views_speak_of_the_aspects_of_the_meaning(corpus: list[Record]) -> None:
    for index, record in enumerate(corpus[:4000]):
        meaning = SOURCE.meaning(index)
        for text in wordings(record):
            assert mentioned(text, meaning.domain) == meaning.aspects, text


def test_texts_are_rarely_repeated(texts: list[str]) -> None:
    assert 1 - len(set(texts)) / len(texts) < 0.01


def test_texts_have_the_length_of_a_short_review(texts: list[str]) -> None:
    lengths = [len(text.split()) for text in texts]
    assert 15 < sum(lengths) / len(lengths) < 35
    assert max(lengths) < 100


def test_texts_are_tidy_english(texts: list[str]) -> None:
    for text in texts:
        assert re.fullmatch(r"[A-Z][\w ,;:.'-]*\.", text), text
        assert not re.search(r"  | [,;.:]|\.\.|[.] [a-z]|[,;:]\S|\b(\w+) \1\b", text), text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n (?!hour)[^aeiou]", text), text


def test_the_lexicon_fits_together() -> None:
    for domain in DOMAINS:
        names = [
            (name, aspect)
            for aspect in {aspect for item in ITEMS[domain].values() for aspect in item.aspects}
            for name in ASPECTS[aspect].names
        ]
        assert len({name for name, _ in names}) == len(names)
    for aspect in ASPECTS.values():
        assert not set(aspect.good) & set(aspect.bad)
        assert not set(aspect.good_acts) & set(aspect.bad_acts)
