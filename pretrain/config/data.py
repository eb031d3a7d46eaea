"""The settings of the data: sources, and which records are kept and in what proportion they are used."""

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pretrain.config.section import FREE, Section
from pretrain.sources import SourceConfig
from pretrain.sources.synthetic.reviews import ReviewsSource


class CleaningConfig(BaseModel):
    """What is done to texts, and which records are dropped for their form; every dropped one is counted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    unicode: Literal["NFC", "NFKC", "none"] = Field(
        "NFC", description="Unicode normalisation of all texts; none: texts are kept byte for byte."
    )
    controls: Literal["strip", "keep"] = Field(
        "strip",
        description="strip: control characters (not tab and newline) and zero-width spaces go; other line ends become "
        "newlines.",
    )
    spaces: Literal["keep", "collapse"] = Field(
        "keep", description="collapse: runs of white space become one space (not for code)."
    )
    distinct_views: bool = Field(
        True,
        description="Drop wordings that both views have, and records whose two views are equal: they teach nothing.",
    )
    min_chars: int = Field(1, ge=1, description="Drop shorter texts, and records of which a view has no other.")
    max_chars: int | None = Field(
        None, ge=1, description="Drop longer texts, and records of which a view has no other; null: truncation only."
    )
    max_length_ratio: float | None = Field(
        None,
        ge=1,
        description="Drop wordings where the longer text of a pair has over so many times the characters of the other, "
        "and records of which a view has no other.",
    )
    min_letter_share: float = Field(
        0.0, ge=0, le=1, description="Drop texts in which letters and digits are a smaller share."
    )
    max_repetition: float = Field(
        1.0,
        ge=0,
        le=1,
        description="Drop texts in which a larger share of the words belongs to repeated 5-grams.",
    )

    def text_settings(self) -> dict[str, str]:
        """Those settings that change texts: the rest only drops records."""
        return {"unicode": self.unicode, "controls": self.controls, "spaces": self.spaces}


class DeduplicationConfig(BaseModel):
    """Which records count as the same; the first one stays (held-out sources before training sources)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact: bool = Field(
        True,
        description="Drop records whose views equal those of an earlier one, also swapped; data.compare_as_written "
        "says when texts are equal.",
    )
    near: bool = Field(
        False,
        description="Drop records that share a MinHash band with an earlier one (not for corpora made by a grammar: "
        "there most records are alike).",
    )
    ngram: int = Field(5, ge=1, description="near: words of the n-grams whose sets are compared.")
    bands: int = Field(14, ge=1, description="near: number of bands.")
    band_hashes: int = Field(
        8,
        ge=1,
        description="near: hashes of a band. A pair of Jaccard similarity s is found with probability "
        "1 - (1 - s^band_hashes)^bands: 77 % at 0.75, 92 % at 0.8, 99.96 % at 0.9 by default.",
    )


class DecontaminationConfig(BaseModel):
    """Test sets whose records must not be trained on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[SourceConfig, ...] = Field((), description="The test sets; one of the views is enough.")
    match: Literal["pair", "view", "ngram"] = Field(
        "ngram",
        description="A training record is contaminated if its pair is a test pair, also swapped (pair); one of its "
        "views is a test text (view); or one shares an n-gram of words with a test text or, if shorter, is equal to "
        "one (ngram).",
    )
    ngram: int = Field(13, ge=2, description="Words of an n-gram.")
    views: tuple[str, ...] | None = Field(
        None, description="Views of training records that match view and ngram look at; null: both."
    )
    action: Literal["drop", "report"] = Field(
        "drop", description="drop contaminated training records, or only count them in the manifest."
    )


class MixtureStage(BaseModel):
    """A stretch of training with one mix of sources."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, validate_default=True)

    tokens: int | None = Field(None, ge=1, description="View tokens of the stage; goes with weights.")
    weights: dict[str, float] = Field(
        default_factory=dict, description="Parts of the stage's tokens by source name; 3 and 1 are 75 % and 25 %."
    )
    budgets: dict[str, int] = Field(default_factory=dict, description="Instead of weights: view tokens by source name.")

    @model_validator(mode="after")
    def _one_way(self) -> "MixtureStage":
        if bool(self.weights) == bool(self.budgets):
            raise ValueError("give either weights (with tokens) or budgets")
        if bool(self.weights) != (self.tokens is not None):
            raise ValueError("weights need the tokens of the stage" if self.weights else "budgets leave tokens out")
        parts = [*self.weights.values(), *self.budgets.values()]
        if min(parts) < 0 or not any(parts):
            raise ValueError("no part may be negative, and one must be positive")
        return self

    def tokens_of(self, name: str) -> float:
        """View tokens that the stage asks of a source."""
        if self.budgets:
            return float(self.budgets.get(name, 0))
        assert self.tokens is not None
        return self.tokens * self.weights.get(name, 0.0) / math.fsum(self.weights.values())


class DataConfig(Section):
    """Which records are read, which of them are kept, and in what proportion they are used (docs/data.md)."""

    sources: tuple[SourceConfig, ...] = Field((ReviewsSource(),), description="Where training records come from.")
    heldout_sources: tuple[SourceConfig, ...] = Field(
        (), description="Where held-out records come from; empty: heldout_fraction of the training records."
    )
    heldout_fraction: float = Field(
        0.02,
        ge=0,
        lt=1,
        description="Share of records held out when no heldout_sources are named, by a hash of their text or group.",
    )
    views: tuple[str, str] = Field(
        ("review", "paraphrase"),
        description="The two views of a record: in the conditional layout the first is the context of the second. One "
        "name twice: two wordings of that view, drawn anew every epoch.",
    )
    max_view_tokens: int | None = Field(
        None, ge=1, description="A longer view is truncated and counted; null: the most that a row can take."
    )
    compare_as_written: tuple[str, ...] | None = Field(
        None,
        description="Views whose texts are equal only if they are so letter for letter, where duplicates and test sets "
        "are looked for; those of other views are compared in NFKC, lower case and single spaces. null: views named "
        "code, and the code of docstrings and regex_grammar.",
    )
    mixture: tuple[MixtureStage, ...] = Field(
        (), description="What an epoch is made of, stage after stage; empty: every record of every source once."
    )
    repeat: bool = Field(False, description="Let a mixture take more records of a source than it has.")
    cleaning: CleaningConfig = CleaningConfig()
    deduplication: DeduplicationConfig = DeduplicationConfig()
    decontamination: DecontaminationConfig = DecontaminationConfig()
    on_bad_row: Literal["stop", "skip"] = Field(
        "stop",
        description="A row that gives no record stops the preparation, or is left out, counted and listed.",
        json_schema_extra=FREE,
    )
    max_bad_share: float = Field(
        0.01, ge=0, le=1, description="With on_bad_row skip: the largest share of bad rows.", json_schema_extra=FREE
    )
    workers: int | None = Field(
        None,
        ge=1,
        description="Processes that prepare data; null: one per core, one alone for little data. Decides nothing else.",
        json_schema_extra=FREE,
    )
    folder: Path = Field(
        Path("runs/data"),
        description="Prepared corpora, each in a subfolder named by its fingerprint, and in work/ what they were made "
        "of: what is there is not made again.",
        json_schema_extra=FREE,
    )

    def views_as_written(self) -> tuple[str, ...]:
        """Those of the two views that are compared as written."""
        named = self.compare_as_written
        if named is None:
            named = ("code", *(view for source in self.sources for view in source.code_views()))
        return tuple(view for view in dict.fromkeys(self.views) if view in named)
