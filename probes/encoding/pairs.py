"""Pairs of texts that say the same thing, whose geometry is measured."""

import itertools
from pathlib import Path

from pretrain.runtime.errors import DiptychError
from pretrain.sources.files import Files
from pretrain.sources.jsonl import JsonlSource
from pretrain.sources.record import BadRow, Record


def read_pairs(path: Path, fields: tuple[str, str], most: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The first pairs of a JSON Lines file.

    Args:
        path: The file.
        fields: Names of the two views.
        most: Pairs to read at most.

    Returns:
        The first views and the second views.

    Raises:
        DiptychError: The file cannot be read, a line is no pair, or there are fewer than two.
    """
    if not path.is_file():
        raise DiptychError(f"{path}: no such file; name JSON Lines with two views a line")
    source = JsonlSource(type="jsonl", path=str(path), fields={"first": fields[0], "second": fields[1]})
    found: list[tuple[str, str]] = []
    records = itertools.chain.from_iterable(source.read(part) for part in source.parts(Files()))
    for record in itertools.islice(records, most):
        if isinstance(record, BadRow):
            raise DiptychError(str(record))
        if isinstance(record, Record):
            found.append((record.views["first"][0], record.views["second"][0]))
    if len(found) < 2:
        raise DiptychError(f"{path}: {len(found)} pairs; their geometry needs two or more")
    first, second = zip(*found, strict=True)
    return first, second
