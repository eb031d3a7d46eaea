"""Registered sets: where they are, at which commit, and what their columns and classes mean."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from probes.sets.classes import Naming

_POLARITY = Naming(("negative", "positive"))
_BINARY_OF_FIVE = {
    "very negative": "negative",
    "negative": "negative",
    "neutral": None,
    "positive": "positive",
    "very positive": "positive",
}


@dataclass(frozen=True)
class RegisteredSet:
    """A set known by name.

    Attributes:
        title: For people.
        dataset: Its name on the hub; where there are ``lines``, a repository of GitHub.
        revision: Commit there, 40 hex digits.
        config: Configuration there; None: the only one.
        text: Columns of the text there; None: as usual.
        lines: Files of one text a line to the class of all their lines; None: every line begins with its own.
        num_texts: In these files, within 1 %.
        naming: Of the classes.
        control: True where the labels are not sentiment.
        max_train: Most training texts unless an option says otherwise; the hub has millions of some.
        max_test: Likewise for the test split.
    """

    title: str
    dataset: str
    revision: str
    config: str | None = None
    text: tuple[str, ...] | None = None
    lines: Mapping[str, int | None] = field(default_factory=dict)
    num_texts: int = 0
    naming: Naming = field(default_factory=Naming)
    control: bool = False
    max_train: int | None = None
    max_test: int | None = None


REGISTRY: dict[str, RegisteredSet] = {
    "rotten_tomatoes": RegisteredSet(
        "Rotten Tomatoes",
        "cornell-movie-review-data/rotten_tomatoes",
        "aa13bc287fa6fcab6daf52f0dfb9994269ffea28",
        naming=_POLARITY,
    ),
    # Its sentences with their official splits, whose test split elsewhere on the hub has no labels.
    "sst2": RegisteredSet(
        "SST-2",
        "SetFit/sst5",
        "e51bdcd8cd3a30da231967c1a249ba59361279a3",
        naming=Naming(_POLARITY.names, _BINARY_OF_FIVE),
    ),
    "sst5": RegisteredSet(
        "SST-5",
        "SetFit/sst5",
        "e51bdcd8cd3a30da231967c1a249ba59361279a3",
        naming=Naming(tuple(_BINARY_OF_FIVE)),
    ),
    "imdb": RegisteredSet(
        "IMDB", "stanfordnlp/imdb", "e6281661ce1c48d982bc483cf8a173c1bbeb5d31", "plain_text", naming=_POLARITY
    ),
    "yelp_polarity": RegisteredSet(
        "Yelp polarity",
        "fancyzhx/yelp_polarity",
        "bbf1c97a1f0cf005e5aded43839fd814654a1557",
        "plain_text",
        naming=_POLARITY,
        max_train=25_000,
        max_test=10_000,
    ),
    "yelp_full": RegisteredSet(
        "Yelp, 5 stars",
        "Yelp/yelp_review_full",
        "c1f9ee939b7d05667af864ee1cb066393154bf85",
        "yelp_review_full",
        naming=Naming(("1 star", "2 stars", "3 stars", "4 stars", "5 stars")),
        max_train=25_000,
        max_test=10_000,
    ),
    "amazon_polarity": RegisteredSet(
        "Amazon polarity",
        "fancyzhx/amazon_polarity",
        "9d9c45c18f8c3cf1b23a3c27917b60cbf28f3289",
        "amazon_polarity",
        text=("title", "content"),
        naming=_POLARITY,
        max_train=25_000,
        max_test=10_000,
    ),
    "tweet_eval_sentiment": RegisteredSet(
        "TweetEval sentiment",
        "cardiffnlp/tweet_eval",
        "b3a375baf0f409c77e6bc7aa35102b7b3534f8be",
        "sentiment",
        naming=Naming(("negative", "neutral", "positive")),
    ),
    # The three that SentEval has as plain lines, without splits.
    "mpqa": RegisteredSet(
        "MPQA",
        "harvardnlp/sent-conv-torch",
        "7917668a7bf647fc9e7b02bdbc40d8ab5567ea67",
        lines={"data/mpqa.neg": 0, "data/mpqa.pos": 1},
        num_texts=10_606,
        naming=_POLARITY,
    ),
    "cr": RegisteredSet(
        "Customer Reviews",
        "harvardnlp/sent-conv-torch",
        "7917668a7bf647fc9e7b02bdbc40d8ab5567ea67",
        lines={"data/custrev.neg": 0, "data/custrev.pos": 1},
        num_texts=3_775,
        naming=_POLARITY,
    ),
    "subj": RegisteredSet(
        "Subj",
        "harvardnlp/sent-conv-torch",
        "656a7ea29de3409aca87bb17935cf93c537527fa",
        lines={"data/subj.all": None},
        num_texts=10_000,
        naming=Naming(("subjective", "objective")),
        control=True,
    ),
}
"""By name."""
