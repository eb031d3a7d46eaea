"""Labelled sets of the Hugging Face hub."""

import re
from typing import Any, ClassVar

from pretrain.runtime.errors import DiptychError
from pretrain.sources.hub import HubSource
from probes.sets.rows import LabelledRows

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SPEC = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)(?:@([^@#]+))?(?:#([^@#]+))?")
_TIMEOUT = 10.0


class LabelledHub(LabelledRows, HubSource):
    """A split of a data set of the hub."""

    location: ClassVar[frozenset[str]] = frozenset({"dataset"})


def parse_hub(spec: str) -> tuple[str, str | None, str | None]:
    """Name, revision and configuration of ``owner/name@revision#config``.

    Raises:
        DiptychError: It is none.
    """
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise DiptychError(f"hub:{spec}: is no name on the hub; write hub:owner/name@revision#config")
    return match[1], match[2], match[3]


def resolve_revision(name: str, dataset: str, revision: str | None) -> str:
    """The commit of a revision; asks the hub once, and not at all for a commit.

    Args:
        name: Of the set, for the message.
        dataset: On the hub.
        revision: Commit, branch or tag; none: the main branch.

    Raises:
        DiptychError: The hub cannot be reached, or has no such data set.
    """
    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi  # imported here, because most runs do not need it

    try:
        commit = HfApi().dataset_info(dataset, revision=revision, timeout=_TIMEOUT).sha
    except Exception as error:
        reason = " ".join(str(error).replace("`", "'").split())[:200] or type(error).__name__
        raise DiptychError(
            f"hub:{dataset}: the hub cannot be asked for its {revision or 'newest'} revision ({reason}); "
            f"{_elsewhere(name, dataset, revision)}"
        ) from error
    return str(commit)


def open_hub(name: str, dataset: str, commit: str, config: str | None, split: str, **columns: Any) -> LabelledRows:
    """A source of the rows of a split.

    Args:
        name: Of the set, for the message.
        dataset: On the hub.
        commit: 40 hex digits.
        config: Of the data set; none: its only one.
        split: Of the data set.
        columns: ``text_columns`` and ``label_column``.
    """
    return LabelledHub(type="hub", dataset=dataset, revision=commit, config=config, split=split, **columns)


def explained(name: str, dataset: str, commit: str, error: DiptychError) -> DiptychError:
    """The message of the hub's source, with the remedies that apply here."""
    problem, _, remedy = str(error).rpartition("; ")
    if "set dataset: " in remedy:
        return DiptychError(f"{problem}; {_elsewhere(name, dataset, commit)}")
    return error


def _elsewhere(name: str, dataset: str, revision: str | None) -> str:
    at = f" --revision {revision}" if revision else ""
    return (
        f"download it where there is a network with `hf download {dataset} --repo-type dataset{at} --local-dir DIR` "
        f"and pass the folder of its files as {name}=DIR"
    )
