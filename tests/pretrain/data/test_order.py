"""The order of records: every record once a pass, every window by itself, and never another order than today's."""

import hashlib
import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.mixture import Mix, resolve
from pretrain.data.order import Order, keys_of, next_keys, random_keys, sample, shuffled, sorted_places
from tests.support.splits import MadeSplit


def splitmix64(seed: int, purpose: str, epoch: int, count: int) -> list[int]:
    """An independent SplitMix64 in Python's own integers."""
    limit = 2**64

    def mix(value: int) -> int:
        value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % limit
        value = (value ^ (value >> 27)) * 0x94D049BB133111EB % limit
        return value ^ (value >> 31)

    gamma, state = 0x9E3779B97F4A7C15, seed
    for part in [*purpose.encode(), epoch]:
        state = mix((state + gamma) % limit) ^ part
    start = mix(state)
    return [mix((start + number * gamma) % limit) for number in range(1, count + 1)]


# ------------------------------------------------------------------------------------------------------ random keys


@pytest.mark.parametrize(
    ("seed", "purpose", "epoch", "keys"),
    # The data order of every run follows from these: they must never change.
    [
        (0, "order", 0, [0x737260ED15845235, 0xEE6AF663726D48D5, 0x1112134C295ED6F5, 0x4F7F3CC52CCDB83F]),
        (7, "dropout", 3, [0x679D6F77EDB4BE91, 0xCA98019450B9408A, 0x2F77981CE13151F5]),
        (2**63, "rows of window 1", 1, [0x10F375FB074B21A7, 0xAB3AAF2D826C61F0]),
    ],
)
def test_random_keys_never_change(seed: int, purpose: str, epoch: int, keys: list[int]) -> None:
    assert random_keys(seed, purpose, epoch, len(keys)).tolist() == keys
    assert splitmix64(seed, purpose, epoch, len(keys)) == keys


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**64 - 1), st.text(max_size=10), st.integers(0, 1000), st.integers(0, 20))
def test_random_keys_are_splitmix64(seed: int, purpose: str, epoch: int, count: int) -> None:
    expected = splitmix64(seed, purpose, epoch, count)
    assert random_keys(seed, purpose, epoch, count).tolist() == expected
    backwards = np.arange(count)[::-1]
    assert keys_of(seed, purpose, epoch, backwards).tolist() == expected[::-1]


def test_next_keys_are_other_keys() -> None:
    keys = random_keys(0, "x", 0, 1000)
    assert len({*keys.tolist(), *next_keys(keys).tolist()}) == 2000
    assert abs(np.corrcoef(keys.astype(float), next_keys(keys).astype(float))[0, 1]) < 0.1


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3) | st.integers(65_530, 65_540), max_size=50))
def test_sorted_places_are_those_of_a_stable_sort(values: list[int]) -> None:
    found = sorted_places(np.array(values, dtype=np.int64))
    assert found.tolist() == sorted(range(len(values)), key=values.__getitem__)


def test_a_sample_is_that_of_the_lowest_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pretrain.data.order.WINDOW", 7)
    for population, count in [(50, 12), (5, 12), (7, 7), (0, 3)]:
        expected = np.argsort(random_keys(3, "held out", 0, population))[:count]
        assert sample(3, "held out", population, count).tolist() == expected.tolist()


# ------------------------------------------------------------------------------------------------------------ order


sources = st.lists(st.integers(1, 40), min_size=1, max_size=3)


@st.composite
def mixes(draw: Any) -> Mix:
    """Up to three stages over up to three sources, some taken many times in one pass."""
    split = MadeSplit({f"s{number}": count for number, count in enumerate(draw(sources))})
    counts = draw(
        st.lists(
            st.lists(st.integers(0, 60), min_size=len(split.sources), max_size=len(split.sources)).filter(any),
            min_size=1,
            max_size=3,
        )
    )
    return Mix(split.sources, tuple(map(tuple, counts)))


def source_of(mix: Mix, record: int) -> int:
    return next(number for number, span in enumerate(mix.sources) if span.first <= record < span.first + span.count)


@pytest.mark.slow
@settings(max_examples=200, deadline=None)
@given(mixes(), st.integers(1, 9), st.integers(1, 50), st.integers(0, 3))
def test_every_pass_over_a_source_holds_every_record_once(mix: Mix, block: int, window: int, seed: int) -> None:
    """Over three epochs, whatever the windows, blocks and stages: nothing lost, nothing twice."""
    order = Order(mix, seed, block=block, window=window)
    taken = [np.zeros(span.count, int) for span in mix.sources]
    for epoch, number in itertools.product(range(3), range(order.num_windows)):
        for record in order.window(epoch, number).records.tolist():
            source = source_of(mix, record)
            taken[source][record - mix.sources[source].first] += 1
        assert all(found.max() - found.min() <= 1 for found in taken), "a record came twice before another came once"
    for source, found in enumerate(taken):
        assert found.sum() == 3 * sum(counts[source] for counts in mix.counts)


@settings(max_examples=100, deadline=None)
@given(mixes(), st.integers(1, 9), st.integers(1, 50))
def test_stages_and_windows_hold_what_the_mixture_says(mix: Mix, block: int, window: int) -> None:
    order = Order(mix, 0, block=block, window=window)
    number = 0
    for counts in mix.counts:
        windows = -(-sum(counts) // window)
        found = Counter[int]()
        for _ in range(windows):
            records = order.window(1, number).records.tolist()
            assert len(records) == order.starts[number + 1] - order.starts[number]
            here = Counter(source_of(mix, record) for record in records)
            for source, count in enumerate(counts):
                assert abs(here[source] - count / windows) < 1, "every window has the proportions of its stage"
            found += here
            number += 1
        assert found == Counter({source: count for source, count in enumerate(counts) if count})
    assert number == order.num_windows
    assert order.starts[0] == 0 and order.starts[-1] == mix.num_records


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(mixes(), st.integers(1, 9), st.integers(1, 50), st.data())
def test_any_window_is_found_without_those_before(mix: Mix, block: int, window: int, data: Any) -> None:
    straight = Order(mix, 5, block=block, window=window)
    drawn = [straight.window(epoch, number) for epoch in range(3) for number in range(straight.num_windows)]
    place = data.draw(st.integers(0, len(drawn) - 1))
    found = Order(mix, 5, block=block, window=window).window(*divmod(place, straight.num_windows))
    assert np.array_equal(found.records, drawn[place].records)
    assert np.array_equal(found.keys, drawn[place].keys)


def test_keys_follow_record_and_pass_alone() -> None:
    """Another name, another source behind it, another window or block change neither wordings nor dropout."""
    split, wider = MadeSplit({"a": 40}), MadeSplit({"b": 40, "c": 30})
    one = Order(resolve((), split.sources, False), 0, block=8, window=16)
    two = Order(resolve((), wider.sources, False), 0, block=5, window=64)

    def keys(order: Order, epoch: int) -> dict[int, int]:
        drawn = [order.window(epoch, number) for number in range(order.num_windows)]
        return {
            record: key
            for part in drawn
            for record, key in zip(part.records.tolist(), part.keys.tolist(), strict=True)
            if record < 40
        }

    assert keys(one, 0) == keys(two, 0) == dict(enumerate(random_keys(0, "pair of source 0", 0, 40).tolist()))
    assert not set(keys(one, 0).values()) & set(keys(one, 1).values())


def test_a_window_reads_few_blocks() -> None:
    split = MadeSplit({"a": 4000, "b": 1000})
    order = Order(resolve((), split.sources, False), 0, block=100, window=500)
    for number in range(order.num_windows):
        assert len(np.unique(order.window(0, number).records // 100)) <= (400 / 100 + 1) + (100 / 100 + 1)


def test_blocks_records_and_epochs_are_shuffled() -> None:
    split = MadeSplit({"a": 5000})
    order = Order(resolve((), split.sources, False), 0, block=10, window=1000)

    def stream(epoch: int) -> Any:
        parts = []
        for number in range(order.num_windows):
            drawn = order.window(epoch, number).records
            parts.append(drawn[order.shuffle(epoch, number, len(drawn))])
        return np.concatenate(parts)

    one, other = stream(0), stream(1)
    for records in (one, other):
        assert sorted(records.tolist()) == list(range(5000))
        assert abs(np.corrcoef(records, np.arange(5000))[0, 1]) < 0.1
        assert abs(np.corrcoef(records[1:], records[:-1])[0, 1]) < 0.1
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1
    assert (one == stream(0)).all()


def test_rare_sources_are_spread_over_a_stage() -> None:
    split = MadeSplit({f"s{number}": 10 for number in range(40)})
    order = Order(Mix(split.sources, ((1,) * 40,)), 0, window=10)
    sizes = np.diff(order.starts)
    assert order.num_windows == 4 and sizes.max() <= 13 and sizes.min() >= 7


def test_the_order_never_changes() -> None:
    """Every resumed run depends on it."""
    split = MadeSplit({"captions": 300, "quora": 70, "unused": 9})
    order = Order(Mix(split.sources, ((220, 75, 0), (90, 150, 0))), 11, block=32, window=100)
    digest = hashlib.sha256()
    for epoch, number in itertools.product(range(3), range(order.num_windows)):
        drawn = order.window(epoch, number)
        places = order.shuffle(epoch, number, len(drawn.records))
        digest.update(drawn.records[places].astype("<i8").tobytes() + drawn.keys[places].astype("<u8").tobytes())
    assert order.starts.tolist() == [0, 98, 196, 295, 375, 455, 535]
    assert digest.hexdigest() == "0d2d0268e7add32f5330ec07f241cf2d2bed8479125efb3f1c620785d513ae36"


def test_shuffled_breaks_ties_by_place() -> None:
    keys = np.array([5 << 32, 1, 5 << 32, 0, 7], dtype=np.uint64)
    assert shuffled(keys).tolist() == [1, 3, 4, 0, 2]
