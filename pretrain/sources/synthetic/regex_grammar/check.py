"""Whether a regex says what it is meant to say: its automaton beside machines that read lines by the meaning alone."""

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Final

from pretrain.regular_languages import RegexSyntaxError, TooComplex
from pretrain.regular_languages.alphabet import Alphabet
from pretrain.regular_languages.automaton import Automaton, sets
from pretrain.regular_languages.syntax import Ranges, characters, parse
from pretrain.sources.synthetic.regex_grammar.machine import holds, machine, things, ways
from pretrain.sources.synthetic.regex_grammar.meaning import Condition, Denied, Joined, Single, singles

_MAX_STATES: Final = 600
_MAX_NODES: Final = 4_000


@cache
def _ranges(texts: str) -> Ranges:
    return characters(texts)


def is_sound(condition: Condition, regex: str) -> bool:
    """Check a regex against what it is meant to say.

    Returns:
        Whether it can be used: it holds for some lines and not for all, each of its parts changes something, and the
        automaton is small enough to tell.

    Raises:
        RuntimeError: The regex says something else, or is none: an error of the grammar.
    """
    parts = singles(condition)
    spelled = {place for part in parts for thing in things(part) for way in ways(thing) for place in way}
    try:
        tree = parse(regex)
    except RegexSyntaxError as error:
        raise RuntimeError(f"the grammar spells no regex: {error}") from error
    alphabet = Alphabet([*sets(tree), *(_ranges(place) for place in spelled if place is not None)])
    tables = [_table(part, alphabet.samples) for part in parts]
    automaton = Automaton(alphabet, _MAX_NODES)
    verdicts: dict[tuple[bool, ...], bool] = {}
    try:
        start = (0,) * len(parts), automaton.start(tree)
        seen, pairs = {start}, [start]
        for states, state in pairs:  # grows while it is walked
            truth = tuple(accepts[at] for (_, accepts), at in zip(tables, states, strict=True))
            if truth not in verdicts:
                verdicts[truth] = holds(condition, dict(zip(parts, truth, strict=True)))
            if verdicts[truth] != automaton.accepts(state):
                raise RuntimeError(f"the grammar spells {condition} as {regex!r}, which says something else")
            rows = [steps[at] for (steps, _), at in zip(tables, states, strict=True)]
            for symbol, after in enumerate(zip(*rows, strict=True)):
                pair = after, automaton.step(state, symbol)
                if pair not in seen:
                    seen.add(pair)
                    pairs.append(pair)
            if len(pairs) > _MAX_STATES:
                return False
    except TooComplex:
        return False
    known = [dict(zip(parts, truth, strict=True)) for truth in verdicts]
    return len(set(verdicts.values())) == 2 and not any(
        all(holds(condition, truth) == holds(less, truth) for truth in known) for less in _shortened(condition)
    )


def _table(single: Single, samples: Sequence[str]) -> tuple[list[tuple[int, ...]], list[bool]]:
    """Number the states of a condition's machine: the state after each symbol, and whether it holds there."""
    reader = machine(single)
    numbers, states = {reader.start: 0}, [reader.start]
    steps = []
    for state in states:  # grows while it is walked
        row = []
        for character in samples:
            after = reader.step(state, character)
            if after not in numbers:
                numbers[after] = len(states)
                states.append(after)
            row.append(numbers[after])
        steps.append(tuple(row))
    return steps, [reader.accepts(state) for state in states]


def _shortened(condition: Condition) -> Iterator[Condition]:
    """Yield the condition without each of its parts."""
    match condition:
        case Denied(inner):
            yield from map(Denied, _shortened(inner))
        case Joined(every, inners):
            for at, inner in enumerate(inners):
                before, after = inners[:at], inners[at + 1 :]
                yield Joined(every, before + after)
                for less in _shortened(inner):
                    yield Joined(every, (*before, less, *after))
