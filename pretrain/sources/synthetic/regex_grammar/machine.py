"""Machines that read a line and tell whether a condition holds for it.

They know nothing of regexes: they read character by character and keep what they have seen (how much of a text, how
often, in which word), so that a regex can be checked against what it is meant to say.
"""

import string
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final, TypeAlias

from pretrain.sources.synthetic.regex_grammar.meaning import (
    Begins,
    Condition,
    Consists,
    Denied,
    Ends,
    InOrder,
    Joined,
    Single,
    SomeWord,
    Thing,
    Times,
)

_KINDS: Final[Mapping[str, str | None]] = {
    "digit": string.digits,
    "odd digit": "13579",
    "even digit": "02468",
    "capital": string.ascii_uppercase,
    "small": string.ascii_lowercase,
    "letter": string.ascii_letters,
    "alphanumeric": string.ascii_letters + string.digits,
    "vowel": "AEIOUaeiou",
    "character": None,
}
_WORD: Final = frozenset(string.ascii_letters + string.digits + "_")

Way: TypeAlias = tuple[str | None, ...]
"""A way to spell a thing: for each place the characters that may stand there, None for any."""
_Spot: TypeAlias = tuple[int, int]
"""A way, and how many of its places have been read."""
_NO_SPOTS: Final[frozenset[_Spot]] = frozenset()


@dataclass(frozen=True, slots=True)
class Machine:
    """Reads a line: begins in ``start``, goes on with ``step``, and what it has read holds where it ``accepts``."""

    start: Hashable
    step: Callable[[Any, str], Hashable]
    accepts: Callable[[Any], bool]


def ways(thing: Thing) -> tuple[Way, ...]:
    """Return all ways to spell a thing."""
    match thing.sort:
        case "kind":
            return ((_KINDS[thing.name],),)
        case "range":
            return (("".join(map(chr, range(ord(thing.name[0]), ord(thing.name[1]) + 1))),),)
        case "text":
            return (tuple(thing.name),)
        case "either":
            return tuple(way for part in thing.parts for way in ways(part))
        case "chain":
            return tuple(tuple(place for way in each for place in way) for each in product(*map(ways, thing.parts)))


def things(single: Single) -> tuple[Thing, ...]:
    """Return the things that a condition speaks of."""
    match single:
        case InOrder(several):
            return several
        case SomeWord(inner):
            return things(inner)
        case _:
            return (single.thing,)


def machine(single: Single) -> Machine:
    """Return the machine of a condition."""
    match single:
        case InOrder(several):
            return _counter([ways(thing) for thing in several], len(several), None)
        case Times(thing, low, high):
            return _counter([ways(thing)] * (low if high is None else high + 1), low, high)
        case Begins(thing):
            return _begins(ways(thing))
        case Ends(thing):
            return _ends(ways(thing))
        case Consists(thing, low, high):
            return _consists(ways(thing), low, high)
        case SomeWord(inner):
            return _some_word(machine(inner))


def holds(condition: Condition, known: Mapping[Single, bool]) -> bool:
    """Tell whether a condition holds where it is known which of its single ones do."""
    match condition:
        case Denied(inner):
            return not holds(inner, known)
        case Joined(every, inners):
            return (all if every else any)(holds(inner, known) for inner in inners)
        case _:
            return known[condition]


def _read(spelled: tuple[Way, ...], spots: Iterable[_Spot], character: str) -> tuple[frozenset[_Spot], bool]:
    """Move on from every spot that the character fits; tell whether one has come to its end."""
    after, ended = set(), False
    for way, place in spots:
        wanted = spelled[way][place]
        if wanted is None or character in wanted:
            if place + 1 == len(spelled[way]):
                ended = True
            else:
                after.add((way, place + 1))
    return frozenset(after), ended


def _fresh(spelled: tuple[Way, ...]) -> frozenset[_Spot]:
    return frozenset((way, 0) for way in range(len(spelled)))


def _counter(several: list[tuple[Way, ...]], low: int, high: int | None) -> Machine:
    """Counts how many of the things it has met, each as early as it can be: no other choice meets more."""
    fresh = [_fresh(spelled) for spelled in several]

    def step(state: Any, character: str) -> Hashable:
        seen, spots = state
        if seen == len(several):
            return seen, spots
        spots, ended = _read(several[seen], spots | fresh[seen], character)
        return (seen + 1, _NO_SPOTS) if ended else (seen, spots)

    return Machine((0, _NO_SPOTS), step, lambda state: low <= state[0] and (high is None or state[0] <= high))


def _begins(spelled: tuple[Way, ...]) -> Machine:
    def step(state: Any, character: str) -> Hashable:
        spots, begun = state
        return state if begun else _read(spelled, spots, character)

    return Machine((_fresh(spelled), False), step, lambda state: bool(state[1]))


def _ends(spelled: tuple[Way, ...]) -> Machine:
    fresh = _fresh(spelled)
    return Machine(
        (_NO_SPOTS, False),
        lambda state, character: _read(spelled, state[0] | fresh, character),
        lambda state: bool(state[1]),
    )


def _consists(spelled: tuple[Way, ...], low: int, high: int | None) -> Machine:
    """Its states: for each number of turns that may be over, the spots of the turn under way (none: about to begin)."""
    fresh = _fresh(spelled)
    most = low if high is None else high

    def step(state: Any, character: str) -> Hashable:
        after: set[tuple[int, frozenset[_Spot]]] = set()
        for turns, spots in state:
            if spots or high is None or turns < most:
                rest, ended = _read(spelled, spots or fresh, character)
                if rest:
                    after.add((turns, rest))
                if ended:
                    after.add((min(turns + 1, most), _NO_SPOTS))
        return frozenset(after)

    return Machine(
        frozenset({(0, _NO_SPOTS)}),
        step,
        lambda state: any(not spots and low <= turns for turns, spots in state),
    )


def _some_word(inner: Machine) -> Machine:
    """Its states: whether a word was found, and the state of the word under way (None: outside words)."""

    def step(state: Any, character: str) -> Hashable:
        is_found, within = state
        if is_found:
            return is_found, within
        if character in _WORD:
            return False, inner.step(inner.start if within is None else within, character)
        return within is not None and inner.accepts(within), None

    return Machine((False, None), step, lambda state: state[0] or (state[1] is not None and inner.accepts(state[1])))
