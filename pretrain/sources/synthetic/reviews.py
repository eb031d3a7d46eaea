"""The embedded default corpus: a grammar of product and film reviews.

It draws a meaning and words it in two or more independent ways, so that the views of a record share what they say and
nothing else. The polarity follows from the meaning, and every text gives it away to a reader, but not to a count of
words: negation, concession, disappointed expectations and denied opinions put the same words on both sides.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Literal, TypeVar

from pydantic import Field, field_validator

from pretrain.sources.files import Files
from pretrain.sources.part import Part
from pretrain.sources.record import Record, Source
from pretrain.sources.synthetic import reviews_lexicon as lexicon
from pretrain.sources.synthetic.reviews_lexicon import Domain, SentenceFrame

T = TypeVar("T")

_PART_RECORDS = 5000
_TEXT_BYTES = 130
"""About what a text has."""


class Draw:
    """A stream of random choices that its name determines.

    Only ``random()`` is used: of Python's generator, it alone is promised to stay the same across versions.
    """

    def __init__(self, name: str) -> None:
        self._random = random.Random(name)

    def chance(self, probability: float) -> bool:
        """Return True with the given probability."""
        return self._random.random() < probability

    def pick(self, options: Sequence[T]) -> T:
        """Return one of the options, all equally likely."""
        return options[int(self._random.random() * len(options))]

    def sample(self, options: Sequence[T], count: int) -> tuple[T, ...]:
        """Return ``count`` different options in random order."""
        rest = list(options)
        return tuple(rest.pop(int(self._random.random() * len(rest))) for _ in range(count))


# ---------------------------------------------------------------------------------------------------------- meaning


@dataclass(frozen=True, slots=True)
class Opinion:
    """What the reviewer thinks of one aspect; strength is 1 (mild), 2 or 3 (strong)."""

    aspect: str
    good: bool
    strength: int


@dataclass(frozen=True, slots=True)
class Foil:
    """An earlier opinion of the whole item, the reviewer's own or other people's, that proved true or false."""

    source: Literal["expectation", "reputation"]
    confirmed: bool


@dataclass(frozen=True, slots=True)
class Meaning:
    """The meaning of a review, before it is worded.

    Attributes:
        domain: Product or film.
        item: The kind of product or film.
        deciding: The opinions that carry the verdict; all of one polarity.
        conceded: Opinions of the other polarity, which the reviewer grants but does not let decide.
        foil: What was thought of the item beforehand.
        occasion: How the reviewer came to know it.
    """

    domain: Domain
    item: str
    deciding: tuple[Opinion, ...]
    conceded: tuple[Opinion, ...] = ()
    foil: Foil | None = None
    occasion: str | None = None

    def __post_init__(self) -> None:
        if len({opinion.good for opinion in self.deciding}) != 1:
            raise ValueError("deciding: expected one or more opinions of one polarity")
        if any(opinion.good == self.good for opinion in self.conceded):
            raise ValueError("conceded: expected opinions of the polarity opposite to the deciding ones")

    @property
    def good(self) -> bool:
        """Whether the verdict is positive."""
        return self.deciding[0].good

    @property
    def label(self) -> int:
        """1 for a positive verdict, 0 for a negative one."""
        return int(self.good)

    @property
    def aspects(self) -> frozenset[str]:
        """The aspects that the review is about."""
        return frozenset(opinion.aspect for opinion in (*self.deciding, *self.conceded))


def draw_meaning(draw: Draw) -> Meaning:
    """Draw what a review says."""
    domain = draw.pick(lexicon.DOMAINS)
    item = draw.pick(tuple(lexicon.ITEMS[domain]))
    good = draw.chance(0.5)
    # Two aspects are the most common; a contrast needs at least two.
    aspects = draw.sample(lexicon.ITEMS[domain][item].aspects, draw.pick((1, 1, 2, 2, 2, 2, 3)))
    conceded = draw.pick(range(1, len(aspects))) if len(aspects) > 1 and draw.chance(0.38) else 0
    opinions = [
        Opinion(aspect, good if index >= conceded else not good, draw.pick((1, 2, 2, 3)))
        for index, aspect in enumerate(aspects)
    ]
    foil: Foil | None = None
    occasion: str | None = None
    if draw.chance(0.45):
        foil = Foil("expectation" if draw.chance(0.5) else "reputation", draw.chance(0.5))
    elif draw.chance(0.65):
        occasion = draw.pick(tuple(lexicon.OCCASIONS[domain]))
    return Meaning(domain, item, tuple(opinions[conceded:]), tuple(opinions[:conceded]), foil, occasion)


# ---------------------------------------------------------------------------------------------------------- wording


def _by_use(frames: Sequence[SentenceFrame]) -> dict[tuple[bool, int, bool, bool], tuple[SentenceFrame, ...]]:
    """Index frames by (affirms, strength, predicate is good, has to embed)."""
    return {
        (affirms, strength, good, embeds): tuple(
            frame
            for frame in frames
            if frame.affirms == affirms
            and strength in frame.strengths
            and good in frame.goods
            and (frame.embeds or not embeds)
        )
        for affirms in (True, False)
        for strength in (1, 2, 3)
        for good in (True, False)
        for embeds in (True, False)
    }


_ADJECTIVE_FRAMES: Final = _by_use(lexicon.ADJECTIVE_FRAMES)
_VERB_FRAMES: Final = _by_use(lexicon.VERB_FRAMES)


def _third_person(verb_phrase: str) -> str:
    verb, space, rest = verb_phrase.partition(" ")
    if verb.endswith(("s", "sh", "ch", "x", "o")):
        verb += "es"
    elif verb.endswith("y") and verb[-2] not in "aeiou":
        verb = verb[:-1] + "ies"
    else:
        verb += "s"
    return verb + space + rest


def _with_adverb(draw: Draw, adjective: str, good: bool, strength: int) -> str:
    if strength == 2 and draw.chance(0.6):
        return adjective
    strong = lexicon.STRONG if good else lexicon.STRONG_BAD
    return f"{draw.pick((lexicon.MILD, lexicon.PLAIN, strong)[strength - 1])} {adjective}"


def _clause(draw: Draw, opinion: Opinion, embeds: bool) -> str:
    """Word one opinion: by an idiom, by a predicate of its polarity, or by denying one of the other polarity."""
    aspect = lexicon.ASPECTS[opinion.aspect]
    name = draw.pick(aspect.names)
    plural = name.startswith("+")
    fields = {"s": name.lstrip("+"), "be": "are" if plural else "is", "was": "were" if plural else "was"}
    if draw.chance(0.15):
        text = draw.pick(lexicon.IDIOMS[opinion.good][opinion.strength])
    else:
        affirms = draw.chance(0.75)
        good = opinion.good == affirms
        if draw.chance(0.3):
            text = draw.pick(_VERB_FRAMES[affirms, opinion.strength, good, embeds]).text
            act = draw.pick(aspect.good_acts if good else aspect.bad_acts)
            fields |= {"vp": act, "vps": act if plural else _third_person(act)}
        else:
            text = draw.pick(_ADJECTIVE_FRAMES[affirms, opinion.strength, good, embeds]).text
            if draw.chance(0.25):
                adjective = draw.pick(lexicon.GENERIC_GOOD if good else lexicon.GENERIC_BAD)
            else:
                adjective = draw.pick(aspect.good if good else aspect.bad)
            fields |= {"a": adjective, "ad": _with_adverb(draw, adjective, good, opinion.strength)}
    return re.sub(r"\[(\w+)\]", "" if plural else r"\1", text).format(**fields)


def _embedded(draw: Draw, opinions: Sequence[Opinion]) -> str:
    """Word opinions of one polarity so that they can follow 'although' or 'that'."""
    clauses = [_clause(draw, opinion, embeds=True) for opinion in draw.sample(opinions, len(opinions))]
    if len(clauses) == 1:
        return clauses[0]
    first, second = clauses  # a review has three opinions at most, and a third one is never on the same side of a join
    return draw.pick(lexicon.JOINS_EMBEDDED).format(x=first, y=second)


def _free(draw: Draw, opinions: Sequence[Opinion]) -> str:
    """Word opinions of one polarity as one or two sentences."""
    if len(opinions) == 1:
        return _clause(draw, opinions[0], embeds=False)
    order = draw.sample(opinions, len(opinions))
    return draw.pick(lexicon.JOINS_FREE).format(
        x=_embedded(draw, order[:-1]),
        y=_embedded(draw, order[-1:]),
        X=_sentence(draw, order[:-1]),
        Y=_sentence(draw, order[-1:]),
    )


def _sentence(draw: Draw, opinions: Sequence[Opinion]) -> str:
    """Word opinions of one polarity as one sentence, free to use what cannot be embedded."""
    return _clause(draw, opinions[0], embeds=False) if len(opinions) == 1 else _embedded(draw, opinions)


def _body(draw: Draw, meaning: Meaning) -> str:
    if not meaning.conceded:
        return _free(draw, meaning.deciding)
    return draw.pick(lexicon.CONTRASTS).format(
        c=_embedded(draw, meaning.conceded),
        d=_embedded(draw, meaning.deciding),
        C=_sentence(draw, meaning.conceded),
        D=_sentence(draw, meaning.deciding),
    )


def _noun(draw: Draw, good: bool) -> str:
    if draw.chance(0.12):
        return f"anything but {draw.pick(lexicon.NOUNS[not good])}"
    return draw.pick(lexicon.NOUNS[good])


def _setting(draw: Draw, meaning: Meaning) -> str:
    """Word the sentence that names the item: the foil, the occasion or a bare introduction."""
    fields = {"item": draw.pick(lexicon.ITEMS[meaning.domain][meaning.item].names)}
    if meaning.foil is not None:
        truth = meaning.good
        foil = truth == meaning.foil.confirmed
        fields |= {"truth": _noun(draw, truth), "foil": _noun(draw, foil), "who": draw.pick(lexicon.WITNESSES)}
        return draw.pick(lexicon.FOILS[meaning.foil.source, meaning.foil.confirmed]).format(**fields)
    if meaning.occasion is not None:
        return draw.pick(lexicon.OCCASIONS[meaning.domain][meaning.occasion]).format(**fields)
    return draw.pick(lexicon.INTROS).format(**fields)


def _verdict(draw: Draw, meaning: Meaning) -> str:
    affirms = draw.chance(0.5)
    act = draw.pick(lexicon.ACTS[meaning.domain, meaning.good == affirms])
    return draw.pick(lexicon.VERDICTS[affirms]).format(act=act)


def _article(match: re.Match[str]) -> str:
    return f"{match[1]}{'n' if match[2] in 'aeiouAEIOU' else ''} {match[2]}"


def word_meaning(draw: Draw, meaning: Meaning) -> str:
    """Word a meaning in two or three sentences."""
    body = _body(draw, meaning)
    parts = [_setting(draw, meaning), body]
    if ". " not in body and draw.chance(0.25):
        parts.append(_verdict(draw, meaning))
    elif meaning.foil is not None and draw.chance(0.3):
        parts.reverse()
    text = re.sub(r"\b(a)\(n\) (\w)", _article, ". ".join(parts)) + "."
    return re.sub(r"(^|[.?] )(\w)", lambda match: match[1] + match[2].upper(), text)


# ----------------------------------------------------------------------------------------------------------- source


class ReviewsSource(Source):
    """Reviews made up by the embedded grammar; needs no files and no network."""

    location: ClassVar[frozenset[str]] = frozenset()

    type: Literal["reviews"] = "reviews"
    count: int = Field(default=20_000, ge=1, description="Number of records.")
    seed: int = Field(default=0, description="Selects the corpus; record i depends on the seed and i only.")
    views: tuple[str, ...] = Field(
        default=("review", "paraphrase"),
        min_length=2,
        description="Names of the views, two or more, all different; each is an independent wording of the meaning.",
    )

    @field_validator("views")
    @classmethod
    def _names_are_usable(cls, views: tuple[str, ...]) -> tuple[str, ...]:
        if not all(views) or len(set(views)) != len(views):
            raise ValueError(f"expected different, non-empty names, got {list(views)}; rename the repeated views")
        return views

    def meaning(self, index: int) -> Meaning:
        """Return what record ``index`` (from 0) says."""
        return draw_meaning(Draw(f"reviews/{self.seed}/{index}/meaning"))

    def view_names(self) -> tuple[str, ...]:
        """Return the views that every record has."""
        return self.views

    def parts(self, files: Files) -> Sequence[Part]:
        """Return ranges of record numbers; their fingerprints change when the grammar does."""
        sample = (text for index in range(200) for text in self._texts(index, self.meaning(index)))
        grammar = hashlib.sha256("\0".join(sample).encode()).hexdigest()
        parts = []
        for start in range(0, self.count, _PART_RECORDS):
            stop = min(start + _PART_RECORDS, self.count)
            state = json.dumps([grammar, self.seed, self.views, start, stop])
            size = (stop - start) * len(self.views) * _TEXT_BYTES
            parts.append(Part("reviews", hashlib.sha256(state.encode()).hexdigest(), size, start, stop, start + 1))
        return parts

    def read(self, part: Part) -> Iterator[Record]:
        """Yield the records in order; the same on every call, platform and Python version."""
        for index in range(part.start, self.count if part.stop is None else part.stop):
            meaning = self.meaning(index)
            texts = self._texts(index, meaning)
            views = {view: (text,) for view, text in zip(self.views, texts, strict=True)}
            yield Record(views, "reviews", index + 1, label=meaning.label)

    def _texts(self, index: int, meaning: Meaning) -> list[str]:
        """One wording for every view, all different."""
        texts: list[str] = []
        for view in range(len(self.views)):
            attempt = 0
            while (text := self._word(meaning, index, view, attempt)) in texts:
                attempt += 1
            texts.append(text)
        return texts

    def _word(self, meaning: Meaning, index: int, view: int, attempt: int) -> str:
        return word_meaning(Draw(f"reviews/{self.seed}/{index}/view {view}/{attempt}"), meaning)
