"""The results of a probing run: the content of ``report.json``, from which every view of the report is made."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from pretrain.runtime.errors import DiptychError

FORMAT = 2

CUT_WORDS = "tfidf, as read by "
"""Prefix of a system's name: TF-IDF words of the texts as a model read them; the model's name follows."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its uncertainty.

    Attributes:
        value: Mean over seeds.
        low: Lower end of the 95 % interval over test examples (``probes.probing.statistics``).
        high: Its upper end.
        std: Standard deviation over seeds; None with one seed.
    """

    value: float
    low: float
    high: float
    std: float | None = None


@dataclass(frozen=True)
class ModelFacts:
    """One model that was probed.

    Attributes:
        name: Unique within the report.
        path: Folder or hub name.
        random_twin_of: Name of the first model whose architecture and tokenizer this one has, with random weights;
            None: a trained model.
        twins: Of a trained model: names of its twins with random weights, by seed, which models may share.
        random_seed: Of a twin: seed of its weights.
        architecture: Hugging Face model type.
        parameters: Their number.
        layers: Number of representations: the embeddings, then one per block; the last is after the final norm.
        width: Of a representation.
        fingerprint: SHA-256 (hex) of config and weights.
        run: Folder of the training run that it is a checkpoint of, if known.
        step: Optimizer steps of that run, if known.
        tokens: Training tokens of that run until then, if known.
        notes: What was changed to make the model fit, for people.
        prefix: Tokens that its tokenizer puts before every text.
        suffix: Tokens that it puts after every text.
        training: Its run's objective and packing, by dotted key of the config; empty if not known.
    """

    name: str
    path: str
    random_twin_of: str | None
    architecture: str
    parameters: int
    layers: int
    width: int
    fingerprint: str
    run: str | None = None
    step: int | None = None
    tokens: int | None = None
    notes: tuple[str, ...] = ()
    twins: tuple[str, ...] = ()
    random_seed: int | None = None
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SetFacts:
    """One labelled set.

    Attributes:
        name: Unique within the report.
        title: For people.
        source: Where it was read from, with the revision.
        label_names: By label number.
        num_train: Training examples.
        num_test: Test examples.
        test_counts: Test examples by label number.
        control: False where the labels are sentiment, True where they are known not to be; None: not known.
        overlaps: Sentences on texts that train and test, or this and another set, share.
        notes: Such as rows left out.
        fingerprint: SHA-256 (hex) of texts and labels.
        train_counts: Training examples by label number.
        train_copies: Training texts that an earlier one equals (case, space and punctuation aside).
        test_copies: Likewise of the test texts.
    """

    name: str
    title: str
    source: str
    label_names: tuple[str, ...]
    num_train: int
    num_test: int
    test_counts: tuple[int, ...]
    control: bool | None
    overlaps: tuple[str, ...]
    notes: tuple[str, ...]
    fingerprint: str
    train_counts: tuple[int, ...] = ()
    train_copies: int = 0
    test_copies: int = 0


@dataclass(frozen=True)
class Score:
    """A classifier trained on one representation of one set and scored on its test split.

    Attributes:
        set: Name of the set.
        system: Name of the model, or of a control: ``majority``, ``tfidf`` of whole texts, or :data:`CUT_WORDS` and the
            name of a model: TF-IDF words of the same beginnings of texts that the model read.
        shuffled: True where the training labels were shuffled (Hewitt & Liang 2019).
        layer: Index of the representation; None for a control.
        pooling: ``last``, ``mean``, ``cls`` or ``pred``; None for a control.
        train_size: Training examples used.
        seeds: Number of seeds.
        cv_accuracy: Accuracy in cross-validation on the training examples, by which layers are chosen.
        accuracy: On the test split.
        macro_f1: On the test split.
        strength: Inverse regularisation C that cross-validation chose, of the first seed; None for majority.
        converged: False where the solver stopped before it had converged.
    """

    set: str
    system: str
    shuffled: bool
    layer: int | None
    pooling: str | None
    train_size: int
    seeds: int
    cv_accuracy: float | None
    accuracy: Estimate
    macro_f1: Estimate
    strength: float | None
    converged: bool


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same test examples of a set.

    Attributes:
        set: Name of the set.
        first: System a, at the representation that its cross-validation chose.
        second: System b, likewise.
        first_layer: Its layer.
        second_layer: Its layer.
        pooling: Of both; None: each at the pooling that its cross-validation chose, as the main table shows them.
        difference: Accuracy of a minus that of b, with its paired bootstrap interval.
        mcnemar: Exact McNemar p-value.
        adjusted: The same after Holm's correction for all comparisons of the report.
        different: ``adjusted`` < 0.05.
    """

    set: str
    first: str
    second: str
    first_layer: int | None
    second_layer: int | None
    pooling: str | None
    difference: Estimate
    mcnemar: float
    adjusted: float
    different: bool


@dataclass(frozen=True)
class Geometry:
    """Geometry of one representation, and how close it puts paired texts.

    Attributes:
        texts: Name of the set or of the pairs.
        model: Name of the model.
        layer: Index of the representation.
        pooling: As in :class:`Score`.
        rankme: Effective rank, exp of the entropy of singular values (arXiv 2210.02885).
        isotropy: IsoScore-like share of directions in use, 0 to 1.
        anisotropy: Mean cosine of two different texts.
        margin: Mean cosine of pairs minus that of non-pairs; None without pairs.
        retrieval: Share of views whose partner is nearest; None without pairs.
        mrr: Mean reciprocal rank of the partner; None without pairs.
    """

    texts: str
    model: str
    layer: int
    pooling: str
    rankme: float
    isotropy: float
    anisotropy: float
    margin: float | None = None
    retrieval: float | None = None
    mrr: float | None = None


@dataclass(frozen=True)
class Similarity:
    """Linear CKA between the layers of two models on the same texts.

    Attributes:
        texts: Name of the set.
        first: Model of the rows.
        second: Model of the columns.
        pooling: As in :class:`Score`.
        values: One row per layer of the first.
    """

    texts: str
    first: str
    second: str
    pooling: str
    values: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Predictions:
    """Predictions of a system's probe for the test examples, at the representation that cross-validation chose.

    Attributes:
        set: Name of the set.
        system: Name of the system.
        layer: Of the representation; None for a control.
        pooling: Likewise.
        confusion: Counts: one row per gold label, one column per predicted one.
        wrong: Some examples that it gets wrong, the most certain first.
        points: 2-D projection (principal components) of some test examples; empty for a control.
        point_labels: Their gold labels.
    """

    set: str
    system: str
    layer: int | None
    pooling: str | None
    confusion: tuple[tuple[int, ...], ...]
    wrong: tuple["Wrong", ...]
    points: tuple[tuple[float, float], ...] = ()
    point_labels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Wrong:
    """A test example that a probe gets wrong.

    Attributes:
        text: Its text, cut where it is long.
        gold: Its label.
        predicted: The probe's label.
        probability: What the probe gives its label.
    """

    text: str
    gold: int
    predicted: int
    probability: float


@dataclass(frozen=True)
class Report:
    """Everything that a probing run measured.

    Attributes:
        title: For people.
        created: ISO time.
        command: The command that repeats the run.
        settings: Settings of the run.
        versions: Of the packages that decide figures.
        models: Probed models and their random twins.
        sets: Labelled sets.
        scores: All layers, poolings, train sizes and controls.
        comparisons: Pairs of systems.
        geometry: By texts, model, layer and pooling.
        similarities: CKA.
        predictions: By set and system.
        equal_input: By set and model the TF-IDF words of the same input: ``tfidf`` where the model read whole texts.
        truncated: Texts longer than a model's context or --max-tokens, by model and then set or file of pairs.
        problems: What failed, one sentence each.
        notes: What was done differently from what was asked, one sentence each.
    """

    title: str
    created: str
    command: str
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    models: tuple[ModelFacts, ...]
    sets: tuple[SetFacts, ...]
    scores: tuple[Score, ...]
    comparisons: tuple[Comparison, ...] = ()
    geometry: tuple[Geometry, ...] = ()
    similarities: tuple[Similarity, ...] = ()
    predictions: tuple[Predictions, ...] = ()
    equal_input: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    truncated: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def chosen(self, set_name: str, system: str, pooling: str | None = None) -> Score | None:
        """The score at a system's whole training set and at the layer (and pooling) that cross-validation chose."""
        found = [
            score
            for score in self.scores
            if (score.set, score.system, score.shuffled) == (set_name, system, False)
            and pooling in (None, score.pooling)
        ]
        whole = max((score.train_size for score in found), default=0)
        found = [score for score in found if score.train_size == whole]
        return max(found, key=lambda score: preference(score.cv_accuracy, score.layer, score.pooling), default=None)

    def write(self, path: Path) -> None:
        """Stores the report as JSON."""
        text = json.dumps({"format": FORMAT} | asdict(self), indent=1, ensure_ascii=False)
        path.write_text(text + "\n", encoding="utf-8")


def preference(cv_accuracy: float | None, layer: int | None, pooling: str | None) -> tuple[float, int, str]:
    """Sort key for choosing a representation, the greatest wins: cross-validation, layer, name of the pooling."""
    return cv_accuracy or 0.0, layer or 0, pooling or ""


def read_report(path: Path) -> Report:
    """Reads ``report.json``.

    Raises:
        DiptychError: It is damaged or of another format.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree.pop("format", None) != FORMAT:
            raise ValueError(f"expected format {FORMAT}")
        report: Report = _built(Report, tree)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DiptychError(f"{path}: is no probing report: {error}") from None
    return report


def _built(kind: Any, value: Any) -> Any:
    """JSON values as the typed tree that they were written from."""
    if isinstance(kind, type) and is_dataclass(kind):
        hints = get_type_hints(kind)
        known = {item.name for item in fields(kind)}
        return kind(**{name: _built(hints[name], item) for name, item in value.items() if name in known})
    origin, inner = get_origin(kind), get_args(kind)
    if origin is tuple:
        kinds = [inner[0]] * len(value) if inner[-1] is ... else inner
        return tuple(_built(part, item) for part, item in zip(kinds, value, strict=True))
    if origin in (Union, UnionType):
        return None if value is None else _built(inner[0], value)
    return value
