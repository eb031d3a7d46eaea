"""Options of reading labelled sets."""

from dataclasses import dataclass

from pretrain.runtime.errors import DiptychError


@dataclass(frozen=True)
class SetOptions:
    """How sets are read; None: the default of the set.

    Attributes:
        text: Columns that make up a text, joined by line ends; none: the registered ones, else the first of ``text``,
            ``sentence`` and ``review`` that there is.
        label: Column of the class; none: ``label``.
        group: Column whose equal values are never divided, neither by folds nor by a division into train and test.
        train_split: Split to train on; none: ``train``.
        test_split: Split to test on; none: ``test``. The same as ``train_split``: that one is divided.
        test_share: Share of the texts that become the test split where there is only one.
        max_train: Most training texts; more are thinned out by a hash of the text. None: the registered number, else
            all.
        max_test: Likewise for the test split.
        reviews_count: Meanings of the review grammar in both splits together.
        reviews_seed: Which of them.

    Raises:
        DiptychError: A number is out of range.
    """

    text: tuple[str, ...] | None = None
    label: str | None = None
    group: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    test_share: float = 0.2
    max_train: int | None = None
    max_test: int | None = None
    reviews_count: int = 6_000
    reviews_seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.test_share < 1:
            raise DiptychError(f"test_share: {self.test_share} is not between 0 and 1; 0.2 is usual")
        for name in ("max_train", "max_test", "reviews_count"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise DiptychError(f"{name}: {value} is less than 1; leave it out or raise it")
        if self.group == "":
            raise DiptychError("group: the column has no name; name it or leave group out")
        if self.text is not None and not all(self.text):
            raise DiptychError("text: a column has no name; name it or leave text out")
