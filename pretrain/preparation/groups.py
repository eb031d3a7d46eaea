"""Whether groups that a training source and a held-out source share are the same things, or merely bear one name."""

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from pretrain.data.branches import BoolArray
from pretrain.preparation.comparing import matching_form
from pretrain.preparation.reading import ReadPart, read_batches, wordings

_EXAMINED = 1000


def share_texts(
    parts: Sequence[ReadPart], chosen: BoolArray, held: Sequence[Sequence[ReadPart]], views: Sequence[str]
) -> bool:
    """Whether any of the first thousand chosen records shares a text with held-out records of its group.

    Args:
        parts: What was read of a training source.
        chosen: Which of its records share a group with held-out sources; shape [records].
        held: What was read of each held-out source.
        views: The views whose texts are looked at.
    """
    asked = list(islice(_records(parts, views, chosen), _EXAMINED))
    wanted = {group for group, _ in asked}
    texts_by_group: dict[str, set[str]] = {group: set() for group in wanted}
    for source_parts in held:
        for group, texts in _records(source_parts, views):
            if group in wanted:
                texts_by_group[group] |= texts
    return any(not texts.isdisjoint(texts_by_group[group]) for group, texts in asked)


def _records(
    parts: Sequence[ReadPart], views: Sequence[str], chosen: BoolArray | None = None
) -> Iterator[tuple[str, set[str]]]:
    """Yields the group and the texts of the records that have one, or of those chosen."""
    names = [f"view {name}" for name in dict.fromkeys(views)]
    first = 0
    for part in parts:
        if chosen is None or np.any(chosen[first : first + part.records]):
            first_number = first
            for batch in read_batches(part.path, [*names, "group"]):
                groups = batch["group"].to_pylist()
                texts = [wordings(batch[name]) for name in names]
                for number, group in enumerate(groups, start=first_number):
                    if group is not None and (chosen is None or chosen[number]):
                        yield group, {matching_form(text) for view in texts for text in view[number - first_number]}
                first_number += len(groups)
        first += part.records
