"""Comparison of the results of two queries."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from scipy.sparse import csr_array  # type: ignore[import-untyped]
from scipy.sparse.csgraph import maximum_bipartite_matching  # type: ignore[import-untyped]

from finetune.tasks.untrusted import OverLimit

Row: TypeAlias = Sequence[Any]

_TOLERANCE = 1e-6
_TINY = 1e-12

# Pairs of rows that are compared one by one where tolerance makes many rows alike; a second or two.
_MAX_PAIRS = 2_000_000


def same_rows(left: Sequence[Row], right: Sequence[Row], *, ordered: bool) -> bool:
    """Whether two results are the same rows, each as often.

    NULL, strings and blobs must be equal, and so must two integers. Where one of two numbers is a real, both may
    differ by one in a million; where one of them is whole, by one millionth at most. So 2 and 2.0 are the same,
    1000000 and 1000001 are not, nor are 1000000.0 and 1000001.0.

    Without an order, some assignment of the rows to each other must pair only rows that are the same. As "the same
    within a tolerance" is not transitive, the first assignment that is tried may fail where another succeeds; so the
    rows that may be alike are matched as a bipartite graph.

    Args:
        left: Rows of numbers, strings, None and blobs (``{"blob": hex}``).
        right: Rows.
        ordered: Whether the order of the rows counts.

    Raises:
        OverLimit: Too many rows differ by so little that it takes too long to tell which belong together.
    """
    if len(left) != len(right) or len({len(row) for row in (*left, *right)}) > 1:
        return False
    if ordered:
        return all(map(_same_row, left, right))
    keys = _keys([*left, *right])
    groups: dict[tuple[Any, ...], tuple[list[Row], list[Row]]] = defaultdict(lambda: ([], []))
    for number, (row, key) in enumerate(zip((*left, *right), keys, strict=True)):
        groups[key][number >= len(left)].append(row)
    return all(len(ours) == len(theirs) for ours, theirs in groups.values()) and all(
        _can_be_paired(ours, theirs) for ours, theirs in groups.values()
    )


def _same_row(one: Row, other: Row) -> bool:
    return all(map(_same_cell, one, other))


def _same_cell(one: Any, other: Any) -> bool:
    if not (isinstance(one, int | float) and isinstance(other, int | float)):
        return type(one) is type(other) and bool(one == other)
    if isinstance(one, int) and isinstance(other, int):
        return one == other
    if not (_is_whole(one) or _is_whole(other)):
        return _close(one, other)
    # A whole number is exact but for the rounding of sums: reals of more than a million have fewer places than that.
    return math.isclose(one, other, rel_tol=_TINY, abs_tol=max(_TOLERANCE * min(1, abs(one), abs(other)), _TINY))


def _is_whole(number: float) -> bool:
    return isinstance(number, int) or number.is_integer()


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=_TOLERANCE, abs_tol=_TINY)


def _keys(rows: Sequence[Row]) -> list[tuple[Any, ...]]:
    """For each row a key that it shares with every row that can be the same.

    That is every cell that is no number, and the class of each number within its column: two numbers are in different
    classes only if somewhere between them is a gap that is larger than the tolerance.
    """
    columns = [_classes([row[place] for row in rows]) for place in range(len(rows[0]))] if rows else []
    return list(zip(*columns, strict=True)) if columns else [()] * len(rows)


def _classes(cells: Sequence[Any]) -> list[Any]:
    numbers = sorted({cell for cell in cells if isinstance(cell, int | float)})
    exact = not any(isinstance(cell, float) for cell in cells)
    of: dict[float, int] = {}
    for place, number in enumerate(numbers):
        before = numbers[place - 1] if place else number
        of[number] = of.get(before, 0) + (exact or not _close(before, number))
    return [of[cell] if isinstance(cell, int | float) else _key(cell) for cell in cells]


def _key(cell: Any) -> tuple[str, Any]:
    return ("blob", cell["blob"]) if isinstance(cell, dict) else (type(cell).__name__, cell)


def _can_be_paired(ours: list[Row], theirs: list[Row]) -> bool:
    """Whether every row of ours can have a row of theirs to itself that is the same."""
    ours, theirs = sorted(ours, key=_numbers), sorted(theirs, key=_numbers)
    if all(map(_same_row, ours, theirs)):
        return True
    if len(ours) * len(theirs) > _MAX_PAIRS:
        raise OverLimit(f"{len(ours):,} rows differ by too little to tell which belong together")
    same = np.array([[_same_row(one, other) for other in theirs] for one in ours])
    return bool((maximum_bipartite_matching(csr_array(same), perm_type="column") >= 0).all())


def _numbers(row: Row) -> list[float]:
    return [cell for cell in row if isinstance(cell, int | float)]
