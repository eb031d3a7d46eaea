"""Loads a labelled set from what a user names."""

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from pretrain.runtime.errors import DiptychError
from probes.sets.classes import Naming, make_set
from probes.sets.files import find_splits, open_files
from probes.sets.grammar import load_reviews
from probes.sets.hub import explained, open_hub, parse_hub, resolve_revision
from probes.sets.labelled import LabelledSet
from probes.sets.options import SetOptions
from probes.sets.registry import REGISTRY, RegisteredSet
from probes.sets.repository import repository_rows
from probes.sets.rows import LabelledRow, listed

_USUAL_TEXT = (("text",), ("sentence",), ("review",))
_NAME = re.compile(r"(\w[\w.-]*)=(.+)")


def load_set(spec: str, options: SetOptions | None = None) -> LabelledSet:
    """Reads a labelled set.

    Args:
        spec: One of

            - a registered name (``rotten_tomatoes``), which is read from the hub, or from GitHub;
            - ``name=PATH``: local files under a name; where it is registered, with that one's title, names of classes
              and control;
            - ``reviews``: the review grammar;
            - a folder with ``train`` and ``test`` files, the beginning of their names, or one file, which is divided;
            - ``hub:owner/name@revision#config``, also after ``name=``.

            A registered name comes before a folder of that name (write ``./name``).
        options: How.

    Raises:
        DiptychError: There is no such set, it cannot be read, or it has nothing to probe.
    """
    options = options or SetOptions()
    match = _NAME.fullmatch(spec)
    name, where = (match[1], match[2]) if match is not None else (None, spec)
    if where == "reviews" and name is None:
        return load_reviews(
            options.reviews_count, options.reviews_seed, options.test_share, options.max_train, options.max_test
        )
    if name is None and where in REGISTRY:
        known = REGISTRY[where]
        if known.lines:
            return _from_repository(where, known, options)
        return _from_hub(where, known, known.dataset, known.revision, known.config, options)
    if where.startswith("hub:"):
        dataset, revision, config = parse_hub(where.removeprefix("hub:"))
        name = name or dataset.rpartition("/")[2]
        return _from_hub(name, REGISTRY.get(name) if match else None, dataset, revision, config, options)
    return _from_files(name, where, options)


def _from_files(name: str | None, where: str, options: SetOptions) -> LabelledSet:
    path = Path(where).expanduser()
    known = REGISTRY.get(name) if name is not None else None
    if known is not None and known.config is not None and (path / known.config).is_dir():
        path /= known.config  # as the hub has it
    if name is None and "/" not in where and not path.exists():
        raise DiptychError(
            f"{where}: no set of this name and no such path; registered are reviews, {', '.join(REGISTRY)}; files are "
            "passed as PATH or NAME=PATH, a data set of the hub as hub:owner/name"
        )
    train_files, test_files, notes = find_splits(path, options.train_split, options.test_split)
    columns = _columns(known, options)
    train = open_files(train_files, **columns).rows()
    test = open_files(test_files, **columns).rows() if test_files is not None else None
    return _made(name or _name_of(path), known, where, train, test, options, notes)


def _from_hub(
    name: str, known: RegisteredSet | None, dataset: str, revision: str | None, config: str | None, options: SetOptions
) -> LabelledSet:
    commit = resolve_revision(name, dataset, revision)
    notes, pinned = [], commit == revision
    if not pinned:
        notes.append(
            f"the revision is not pinned; {commit} is the newest of {revision or 'the main branch'} today, and another "
            "may be tomorrow"
        )
    splits = [options.train_split or "train", options.test_split or "test"]
    columns = _columns(known, options)
    train, test = (open_hub(name, dataset, commit, config, split, **columns).rows() for split in splits)
    source = f"hub:{dataset}@{commit}" + (f"#{config}" if config else "") + ("" if pinned else " (not pinned)")
    try:
        return _made(name, known, source, train, None if splits[0] == splits[1] else test, options, notes)
    except DiptychError as error:
        raise explained(name, dataset, commit, error) from error


def _from_repository(name: str, known: RegisteredSet, options: SetOptions) -> LabelledSet:
    if options.train_split is not None or options.test_split is not None:
        raise DiptychError(f"{name}: has no named splits; leave --train-split and --test-split out")
    rows = repository_rows(name, known)
    return _made(name, known, f"github:{known.dataset}@{known.revision}", rows, None, options, [])


def _columns(known: RegisteredSet | None, options: SetOptions) -> dict[str, Any]:
    own = (known.text,) if known is not None and known.text is not None else ()
    text = (options.text,) if options.text is not None else (*own, *_USUAL_TEXT)
    return {
        "text_columns": tuple(dict.fromkeys(text)),
        "label_column": options.label or "label",
        "group": options.group,
    }


def _made(
    name: str,
    known: RegisteredSet | None,
    source: str,
    train: Iterable[LabelledRow],
    test: Iterable[LabelledRow] | None,
    options: SetOptions,
    notes: list[str],
) -> LabelledSet:
    made = make_set(
        name,
        known.title if known is not None else name,
        source,
        train,
        test,
        naming=known.naming if known is not None else Naming(),
        test_share=options.test_share,
        max_train=options.max_train or (known.max_train if known is not None else None),
        max_test=options.max_test or (known.max_test if known is not None else None),
        control=known.control if known is not None else None,
        notes=notes,
    )
    expected = known.naming.classes if known is not None else ()
    if known is None or not expected or set(made.label_names) == set(expected):
        return made
    said = f"has the classes {listed(made.label_names)}, but {known.title} has {listed(expected)}"
    return replace(made, notes=(*made.notes, said))


def _name_of(path: Path) -> str:
    """Name of a set: that of the folder or file, with the folder's before a file that is named by its split."""
    stem = path.name if path.is_dir() else path.name.split(".")[0]
    if not path.is_dir() and stem in ("train", "test", "data"):
        stem = f"{path.absolute().parent.name}.{stem}"
    return re.sub(r"[^\w.-]", "_", stem or path.absolute().name) or "data"
