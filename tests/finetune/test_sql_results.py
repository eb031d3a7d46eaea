"""When two results of queries are the same rows: exact integers, reals within a tolerance, rows in any order."""

import random
import sqlite3
import time
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune.tasks import Example, make_task
from finetune.tasks.rows import _same_cell, same_rows
from finetune.tasks.untrusted import OverLimit


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (1_000_000, 1_000_001, False),
        (2**62, 2**62 + 1, False),
        (2, 2.0, True),
        (1_000_000, 1_000_001.0, False),
        (1_000_000.0, 1_000_001.0, False),
        (1_000_000, 1_000_000.9, False),
        (1_000_000, 1_000_000.0000000001, True),
        (1_234_567, 1_234_567.4, False),  # integer division in place of an average
        (0, 5e-7, False),
        (0, 0.1 + 0.2 - 0.3, True),
        (3, 2.9999999999999996, True),
        (10**15, 1e15, True),
        (0.3, 0.1 + 0.2, True),
        (4.2, 4.2000001, True),
        (4.2, 4.20001, False),
        (1000.5, 1000.41, False),
        (2.5, -2.5, False),
        (float("inf"), float("inf"), True),
        (float("inf"), 1e300, False),
        (1, "1", False),
        (None, None, True),
        (None, 0, False),
        (None, "", False),
        ("a", "a", True),
        ("a", "A", False),
        ("00", {"blob": "00"}, False),
        ({"blob": "00"}, {"blob": "00"}, True),
        ({"blob": "00"}, {"blob": "01"}, False),
    ],
)
@pytest.mark.parametrize("ordered", [True, False])
def test_cells(one: Any, other: Any, same: bool, ordered: bool) -> None:
    assert same_rows([[one, "x"]], [[other, "x"]], ordered=ordered) is same
    assert same_rows([[other, "x"]], [[one, "x"]], ordered=ordered) is same


def test_rows_whose_reals_are_rounded_otherwise_sort_otherwise() -> None:
    left = [[0.1 + 0.2, "b", 1], [0.3, "a", 2], [0.3, "a", 3]]
    right = [[0.3, "a", 3], [0.1 + 0.2, "a", 2], [0.3, "b", 1]]
    assert same_rows(left, right, ordered=False)
    assert not same_rows(left, [[0.3, "a", 2], [0.1 + 0.2, "a", 2], [0.3, "b", 1]], ordered=False)


def test_an_assignment_is_found_where_the_first_choice_fails() -> None:
    """Sorted by the first column, the rows of the two sides do not fit, but another order does."""
    left = [[1.5, 1.5], [1.5000001, 1.500002], [1.5000005, 1.500001]]
    right = [[1.5, 1.500002], [1.5000001, 1.5], [1.5000005, 1.500001]]
    for some in permutations(left):
        for others in permutations(right):
            assert same_rows(some, others, ordered=False)
    right[1][1] = right[2][1] = 1.500002  # 1.5 has no partner
    assert not same_rows(left, right, ordered=False)


near = st.sampled_from([None, "a", 1, 2, 1.0, 1.5, 1.500001, 1.5000019, 1.4999991, 1_000_000.2, 1_000_000.9, 1_000_000])


@settings(max_examples=300)
@given(st.lists(st.tuples(near, near), max_size=5), st.lists(st.tuples(near, near), max_size=5))
def test_unordered_rows_are_same_if_some_order_makes_them_so(left: list[Any], right: list[Any]) -> None:
    some_order = len(left) == len(right) and any(
        all(_same_cell(*cells) for rows in zip(left, other, strict=True) for cells in zip(*rows, strict=True))
        for other in permutations(right)
    )
    assert same_rows(left, right, ordered=False) is some_order


def test_large_results_take_little_time() -> None:
    rng = random.Random(0)
    left = [[number % 7, 2_460_000 + rng.random(), f"name {number % 50}"] for number in range(10_000)]
    right = [[whole, real * (1 + 1e-15), text] for whole, real, text in rng.sample(left, len(left))]
    start = time.monotonic()
    assert same_rows(left, right, ordered=False)
    right[17][0] += 1
    assert not same_rows(left, right, ordered=False)
    assert same_rows([[1]] * 10_000, [[1.0]] * 10_000, ordered=False)
    assert time.monotonic() - start < 60


def test_what_takes_too_long_is_not_decided(tmp_path: Path) -> None:
    left = [[1 + number * 1e-9 + 0.5, number * 1e-9 + 0.5] for number in range(2_000)]
    right = [[one, 0.5 + 0.000003 - (other - 0.5)] for one, other in left]
    with pytest.raises(OverLimit, match="2,000 rows differ by too little"):
        same_rows(left, right, ordered=False)
    with sqlite3.connect(tmp_path / "a.sqlite") as connection:
        connection.execute("CREATE TABLE t (a REAL, b REAL, c REAL)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?, ?)", [(a, b, c) for (a, b), (_, c) in zip(left, right, strict=True)]
        )
    connection.close()
    example = Example("a:1", "", "SELECT a, b FROM t", {"db_id": "a"})
    verdict = make_task("text_to_sql", databases=tmp_path).judge(example, "SELECT a, c FROM t")
    assert verdict.scores["execution"] is None and "not decided: 2,000 rows differ by too little" in verdict.reason


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "shop.sqlite") as connection:
        connection.execute("CREATE TABLE s (price REAL, qty INTEGER)")
        connection.executemany("INSERT INTO s VALUES (?, ?)", [(1000.5, 1), (1000.41, 2)])
        connection.execute("CREATE TABLE towns (name TEXT, people INTEGER)")
        connection.executemany("INSERT INTO towns VALUES (?, ?)", [("A", 1_000_000), ("B", 1_000_001), ("C", None)])
    connection.close()
    return tmp_path


@pytest.mark.parametrize(
    ("gold", "answer", "execution"),
    [
        ("SELECT price * 1.1, qty FROM s", "SELECT price + price * 0.1, qty FROM s", 1),
        ("SELECT price * 1.1, qty FROM s", "SELECT price + price * 0.1, 3 - qty FROM s", 0),
        ("SELECT price * 1.1 FROM s ORDER BY qty", "SELECT price + price * 0.1 FROM s ORDER BY qty DESC", 0),
        ("SELECT people FROM towns WHERE name = 'A'", "SELECT people FROM towns WHERE name = 'B'", 0),
        ("SELECT people * 1.0 FROM towns WHERE name = 'A'", "SELECT people FROM towns WHERE name = 'B'", 0),
        ("SELECT sum(qty) FROM s", "SELECT total(qty) FROM s", 1),
        ("SELECT count(*) FROM towns", "SELECT count(people) FROM towns", 0),
        ("SELECT avg(people) FROM towns", "SELECT sum(people) / count(people) FROM towns", 0),
        ("SELECT avg(qty) FROM s", "SELECT sum(qty) * 1.0 / count(*) FROM s", 1),
        ("SELECT people FROM towns", "SELECT coalesce(people, 0) FROM towns", 0),
        ("SELECT qty - - 1 FROM s", "SELECT qty -- 1 FROM s", 0),
    ],
)
def test_execution(shop: Path, gold: str, answer: str, execution: int) -> None:
    task = make_task("text_to_sql", databases=shop)
    assert task.judge(Example("a:1", "", gold, {"db_id": "shop"}), answer).scores["execution"] == execution


@pytest.mark.parametrize(
    ("gold", "trivial"),
    [
        ("SELECT qty FROM s", None),
        ("SELECT qty FROM s WHERE qty > 2", "gives nothing"),
        ("SELECT max(qty) FROM s WHERE qty > 2", "gives nothing"),
        ("SELECT count(*) FROM s WHERE qty > 2", None),
        ("SELECT x FROM s", None),
    ],
)
def test_golds_that_give_nothing_are_named(shop: Path, gold: str, trivial: str | None) -> None:
    example = Example("a:1", "", gold, {"db_id": "shop"})
    assert make_task("text_to_sql", databases=shop).trivial_gold(example) == trivial
    assert make_task("text_to_sql").trivial_gold(example) is None
