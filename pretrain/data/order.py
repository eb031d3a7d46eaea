"""Which record stands at which place of an epoch: a pure function of (seed, sources, mixture), found window by window.

Every source is an endless stream: pass after pass over its records, each pass with its blocks in another order and the
records of every block in another order. A stage of the mixture is cut into windows; each takes the next records of
every source's stream, in the proportions of the stage. So a window reads few blocks, nothing is lost or doubled within
a pass, and any window is found without those before it.
"""

import itertools
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pretrain.data.branches import IntArray
from pretrain.data.corpus import BLOCK
from pretrain.data.mixture import Mix

KeyArray = npt.NDArray[np.uint64]

WINDOW = 2**18
"""Records that are shuffled and packed together, about: bounds the memory of a plan and the wait for it."""

_GAMMA = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class WindowRecords:
    """The records of a window, sorted by source and block.

    Attributes:
        records: Record numbers; shape [records].
        keys: A random number for each record and pass over its source, from which its pair is drawn; shape [records].
    """

    records: IntArray
    keys: KeyArray


class Order:
    """The records of all epochs.

    Random numbers go by a source's number, not by its name: a name may come from a path, and moving a file must not
    change a run.

    Attributes:
        starts: Records of the epoch before each window, and in all; shape [windows + 1].
    """

    def __init__(self, mix: Mix, seed: int, *, block: int = BLOCK, window: int = WINDOW) -> None:
        """Tabulates the windows of an epoch.

        Args:
            mix: Records of each stage and source; an epoch is one pass over it.
            seed: Seed of the run.
            block: Records that lie together on disk.
            window: Most records of a window (give or take one for each source).
        """
        self.mix, self.seed, self.block = mix, seed, block
        cuts = [-(-sum(counts) // window) for counts in mix.counts]
        self._first_windows = [0, *itertools.accumulate(cuts)]
        before = [[0] * len(mix.sources)]
        for counts in mix.counts:
            before.append([sum(pair) for pair in zip(before[-1], counts, strict=True)])
        self._before = before  # records of each source that an epoch takes before each stage; last: in all
        self._permutations: dict[tuple[int, int], IntArray] = {}
        self.starts: IntArray = np.array(
            [sum(self._taken(window)) for window in range(self.num_windows)] + [sum(before[-1])]
        )

    @property
    def num_windows(self) -> int:
        """Windows of an epoch."""
        return self._first_windows[-1]

    def window(self, epoch: int, window: int) -> WindowRecords:
        """The records of one window of an epoch."""
        records, keys = [], []
        in_epoch = self._before[-1]
        for source, (start, stop) in enumerate(zip(self._taken(window), self._taken(window + 1), strict=True)):
            span = self.mix.sources[source]
            place, end = epoch * in_epoch[source] + start, epoch * in_epoch[source] + stop
            while place < end:
                number, inside = divmod(place, span.count)
                taken = min(end - place, span.count - inside)
                chosen = self._of_pass(source, number, inside, inside + taken)
                records.append(chosen + span.first)
                keys.append(keys_of(self.seed, f"pair of source {source}", number, chosen))
                place += taken
        return WindowRecords(
            np.concatenate([np.zeros(0, np.int64), *records]), np.concatenate([np.zeros(0, np.uint64), *keys])
        )

    def shuffle(self, epoch: int, window: int, count: int) -> IntArray:
        """The order in which the ``count`` records of a window are trained on: places in :meth:`window`'s arrays."""
        return shuffled(random_keys(self.seed, f"order of window {window}", epoch, count))

    def _taken(self, window: int) -> list[int]:
        """Records of each source that the epoch takes before a window."""
        stage = bisect_right(self._first_windows, window) - 1
        if stage == len(self.mix.counts):
            return self._before[stage]
        first, stop = self._first_windows[stage : stage + 2]
        inside, windows, sources = window - first, stop - first, len(self.mix.sources)
        # The first record of a source is due at another point of the stage than that of the next source: rare sources
        # would else all meet in the last window.
        return [
            before + (inside * count * sources + source * windows) // (windows * sources)
            for source, (before, count) in enumerate(zip(self._before[stage], self.mix.counts[stage], strict=True))
        ]

    def _of_pass(self, source: int, number: int, start: int, stop: int) -> IntArray:
        """Numbers within the source of the records at some places of one pass over it."""
        span, block = self.mix.sources[source], self.block
        order = self._blocks(source, number)
        last = len(order) - 1
        missing = len(order) * block - span.count  # in the last block
        where = int(np.flatnonzero(order == last)[0])

        def first_place(turn: int) -> int:
            return turn * block - (missing if turn > where else 0)

        def turn_of(place: int) -> int:
            return place // block if place < first_place(where + 1) else (place + missing) // block

        parts: list[IntArray] = []
        turn = turn_of(start)
        while start < stop:
            first, size = int(order[turn]) * block, first_place(turn + 1) - first_place(turn)
            inside = start - first_place(turn)
            taken = min(stop - start, size - inside)
            records = np.arange(first, first + size, dtype=np.int64)
            if taken < size:  # the window shuffles its records anyway: the order matters only where a block is cut
                keys = keys_of(self.seed, f"records of source {source}", number, records)
                records = records[shuffled(keys)[inside : inside + taken]]
            parts.append(records)
            start += taken
            turn += 1
        return np.concatenate(parts)

    def _blocks(self, source: int, number: int) -> IntArray:
        """The order of a source's blocks in one pass; those of a few passes are kept."""
        key = (source, number)
        if key not in self._permutations:
            self._permutations = {old: kept for old, kept in self._permutations.items() if old != (source, number - 2)}
            span = self.mix.sources[source]
            self._permutations[key] = shuffled(
                random_keys(self.seed, f"blocks of source {source}", number, -(-span.count // self.block))
            )
        return self._permutations[key]


def sample(seed: int, purpose: str, population: int, count: int) -> IntArray:
    """Draws ``count`` of the numbers 0 to ``population - 1``, in random order and without an array over all of them."""
    drawn, keys = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for start in range(0, population, WINDOW):
        numbers = np.arange(start, min(start + WINDOW, population), dtype=np.int64)
        drawn = np.concatenate([drawn, numbers])
        keys = np.concatenate([keys, keys_of(seed, purpose, 0, numbers)])
        lowest = np.argsort(keys, kind="stable")[:count]
        drawn, keys = drawn[lowest], keys[lowest]
    return drawn


def shuffled(keys: KeyArray) -> IntArray:
    """Places of the keys, those with the lowest upper 32 bits first."""
    return sorted_places((keys >> np.uint64(32)).astype(np.int64))


def sorted_places(values: IntArray) -> IntArray:
    """Places of numbers from 0 to 2**32 - 1 in ascending order, equal ones in the order given; linear in time."""
    # numpy sorts 16-bit numbers by radix: 3 to 7 times as fast as argsort of wider ones.
    places = np.argsort(values.astype(np.uint16), kind="stable")
    if len(values) and values.max() >> 16:
        places = places[np.argsort((values >> 16).astype(np.uint16)[places], kind="stable")]
    return places


def random_keys(seed: int, purpose: str, epoch: int, count: int) -> KeyArray:
    """One 64-bit key for each of the numbers 0 to ``count - 1``; see :func:`keys_of`."""
    return keys_of(seed, purpose, epoch, np.arange(count, dtype=np.int64))


def keys_of(seed: int, purpose: str, epoch: int, numbers: IntArray) -> KeyArray:
    """One 64-bit key per number, a function of the arguments alone (SplitMix64, Steele et al. 2014).

    Written out rather than taken from numpy's generators, whose streams may change between versions: the data order
    of a run must not.
    """
    with np.errstate(over="ignore"):
        state: Any = np.uint64(seed)
        for part in [*purpose.encode(), epoch]:
            state = _mix(state + _GAMMA) ^ np.uint64(part)
        return _mix(_mix(state) + (numbers.astype(np.uint64) + np.uint64(1)) * _GAMMA)


def next_keys(keys: KeyArray) -> KeyArray:
    """Another key for each key."""
    return _mix(keys + _GAMMA)


def _mix(value: Any) -> KeyArray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(value ^ (value >> np.uint64(31)))
