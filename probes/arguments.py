"""Command line of a probing run."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pretrain.model.loading import Dtype
from pretrain.runtime.command_line import CommandLine, whole_number
from pretrain.runtime.errors import DiptychError
from probes.encoding.origin import checkpoints_of
from probes.encoding.pooling import POOLINGS
from probes.results import CUT_WORDS
from probes.sets import SetOptions

_RANDOM = re.compile(r" \(random weights(, seed \d+)?\)$")

_CONTROLS = ("majority", "tfidf")


@dataclass(frozen=True)
class Settings:
    """What a probing run does.

    Attributes:
        models: Where each model is, by its name in the report.
        sets: Specs of the labelled sets (``probes.sets.load_set``).
        options: How sets are read.
        pairs: JSON Lines with two views a line, whose geometry is measured; None: without.
        pair_fields: Names of those views' fields.
        out: Folder of the report.
        cache: Folder of cached representations.
        poolings: How a text's states become one vector.
        seeds: Number of seeds.
        sizes: Training sizes of the learning curve, before all examples; None: 100, 300, 1000, … as far as they go.
        random_seeds: How many times each architecture is also probed with random weights.
        max_tokens: Most tokens of a text; None: the context.
        batch_tokens: Positions of a forward pass; None: as suits the device.
        dtype: Type of the weights.
        trust_remote_code: Run Python code that models bring along.
        title: Of the report.
    """

    models: dict[str, str]
    sets: tuple[str, ...]
    options: SetOptions
    pairs: Path | None
    pair_fields: tuple[str, str]
    out: Path
    cache: Path
    poolings: tuple[str, ...]
    seeds: int
    sizes: tuple[int, ...] | None
    random_seeds: int
    max_tokens: int | None
    batch_tokens: int | None
    dtype: Dtype
    trust_remote_code: bool
    title: str


def random_name(name: str, seed: int) -> str:
    """What a model's twin with random weights of a seed is called."""
    return f"{name} (random weights{f', seed {seed}' if seed else ''})"


def read_arguments(argv: Sequence[str], description: str) -> Settings:
    """Parses the command line.

    Raises:
        DiptychError: An option is unknown, missing or wrong, two models have one name, or one has that of a control.
    """
    parser = CommandLine("probes", description)
    add = parser.add_argument
    count, positive = whole_number(0), whole_number(1)
    add("models", nargs="+", metavar="MODEL", help="[NAME=]folder of a model, run or checkpoint, or a hub name")
    add("--data", nargs="+", required=True, metavar="SET", help="a registered name, NAME=PATH, a path, or hub:NAME")
    add("--checkpoints", action="store_true", help="a run folder stands for all of its checkpoints")
    add("--pairs", type=Path, metavar="FILE", help="JSON Lines with two views a line: their geometry is measured")
    add("--pair-fields", nargs=2, default=["text", "code"], metavar="FIELD", help="of --pairs (text code)")
    add("--out", type=Path, default=Path("runs/probes"), metavar="DIR", help="the report (runs/probes)")
    add("--cache", type=Path, metavar="DIR", help="representations that are kept (OUT/cache)")
    add("--pooling", nargs="+", default=["last", "mean"], choices=POOLINGS, help="what a text is read from (last mean)")
    add(
        "--seeds",
        type=positive,
        default=3,
        metavar="N",
        help="of folds, training subsets and shuffled labels (3)",
    )
    add(
        "--sizes",
        nargs="*",
        type=positive,
        metavar="N",
        help="sizes of the curve (100 300 1000 ...; no N: none)",
    )
    add(
        "--random-seeds",
        type=count,
        default=1,
        metavar="N",
        help="of the same architecture with random weights (1)",
    )
    add("--text", nargs="+", metavar="COLUMN", help="columns that make up a text (text, sentence or review)")
    add("--label", metavar="COLUMN", help="column of the class (label)")
    add("--group", metavar="COLUMN", help="column whose equal values are never divided by a split or a fold")
    add("--train-split", metavar="NAME", help="split to train on (train)")
    add("--test-split", metavar="NAME", help="split to test on (test)")
    add("--max-train", type=positive, metavar="N", help="most training texts of a set")
    add("--max-test", type=positive, metavar="N", help="most test texts of a set")
    add("--reviews-count", type=positive, default=6000, metavar="N", help="meanings of the set reviews (6000)")
    add("--reviews-seed", type=int, default=0, metavar="N", help="which of them")
    add("--max-tokens", type=positive, metavar="N", help="most tokens of a text (the context)")
    add(
        "--batch-tokens",
        type=positive,
        metavar="N",
        help="positions of a forward pass (1024 on a CPU, else 16384)",
    )
    add("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="float32", help="of weights (float32)")
    add("--trust-remote-code", action="store_true", help="run Python code of the models, open pickled weights")
    add("--title", default="Linear probes", help="of the report")
    given = parser.read(argv)
    if len(set(given.pooling)) < len(given.pooling):
        parser.error(f"argument --pooling: {' '.join(given.pooling)} names one twice")
    options = SetOptions(
        text=tuple(given.text) if given.text else None,
        label=given.label,
        group=given.group,
        train_split=given.train_split,
        test_split=given.test_split,
        max_train=given.max_train,
        max_test=given.max_test,
        reviews_count=given.reviews_count,
        reviews_seed=given.reviews_seed,
    )
    return Settings(
        models=_models(given.models, given.checkpoints),
        sets=tuple(given.data),
        options=options,
        pairs=given.pairs,
        pair_fields=tuple(given.pair_fields),
        out=given.out,
        cache=given.cache or given.out / "cache",
        poolings=tuple(given.pooling),
        seeds=given.seeds,
        sizes=tuple(sorted(set(given.sizes))) if given.sizes is not None else None,
        random_seeds=given.random_seeds,
        max_tokens=given.max_tokens,
        batch_tokens=given.batch_tokens,
        dtype=given.dtype,
        trust_remote_code=given.trust_remote_code,
        title=given.title,
    )


def _models(given: Sequence[str], checkpoints: bool) -> dict[str, str]:
    """The path of each model by name; a name that is not given is taken from the path."""
    models: dict[str, str] = {}
    for word in given:
        name, equals, path = word.partition("=")
        if not equals or not name or Path(word).exists():
            name, path = _name(word), word
        places = {name: path}
        if checkpoints and (Path(path) / "checkpoints").is_dir():
            places = {f"{name}@{_step(place.name)}": str(place) for place in checkpoints_of(Path(path))}
        for key, place in places.items():
            if key in _CONTROLS or _RANDOM.search(key) or key.startswith(CUT_WORDS):
                raise DiptychError(f"{place}: controls are called {key!r}; name the model, as in NAME={place}")
            if key in models:
                raise DiptychError(f"{place}: a second model called {key!r}; name it, as in NAME={place}")
            models[key] = place
    return models


def _name(path: str) -> str:
    """A folder's name; that of the run where it is the run's export or checkpoint."""
    folder = Path(path)
    parts = [part for part in folder.parts if part not in ("/", ".", "..")]
    if len(parts) > 1 and parts[-1] == "export":
        return parts[-2]
    if len(parts) > 2 and parts[-2] == "checkpoints":
        return f"{parts[-3]}@{_step(parts[-1])}"
    return parts[-1] if parts else path


def _step(name: str) -> str:
    """The step of a checkpoint's folder, or the folder's own name."""
    match = re.fullmatch(r"step_0*(\d+)", name)
    return match[1] if match else name
