r"""Regexes as automata: whether two mean the same, decided exactly, and the shortest string that tells them apart.

What a regex means: the set of lines that it matches as a whole. A line is any string of Unicode characters without a
line break, and ``.`` is any one of them. Every part of a regex is matched against a stretch of the line, and ``&``,
``~`` and ``\b`` are exact: a stretch matches ``~a`` if it does not match ``a``, and the empty stretch matches ``\b``
if exactly one of the characters around it is in ``[A-Za-z0-9_]``, with nothing beyond the ends of the line. So ``\b``
looks beyond its own stretch, within ``~`` too: ``a~(\b)b`` matches ``ab``.

Everything here is decidable, but the number of states may grow as a tower of powers with the depth of ``~`` and as a
power with the numbers in ``{}``; beyond a bound the answer is ``TooComplex``. States are derivatives of the expression
(Brzozowski 1964; with word boundaries each holds whether the last character was one of a word), made as they are needed
over classes of characters that the regexes do not tell apart.
"""

from typing import Final, TypeAlias

from pretrain.regular_languages.alphabet import Alphabet
from pretrain.regular_languages.automaton import Automaton, State, TooComplex, sets
from pretrain.regular_languages.syntax import RegexSyntaxError, parse

__all__ = ["MAX_STATES", "RegexSyntaxError", "TooComplex", "difference"]

MAX_STATES: Final = 10_000
_NODES_PER_STATE: Final = 10


_Pair: TypeAlias = tuple[State, State]
_Came: TypeAlias = dict[_Pair, tuple[_Pair, int] | None]


def difference(left: str, right: str, max_states: int = MAX_STATES) -> str | None:
    """Return a shortest line that exactly one of two regexes matches; None: they mean the same.

    Args:
        left: A regex.
        right: A regex.
        max_states: Bound on the pairs of states that are looked at; the work and the memory grow with it.

    Raises:
        RegexSyntaxError: One of them is no regex.
        TooComplex: It takes more states than that.
    """
    trees = parse(left), parse(right)
    alphabet = Alphabet(found for tree in trees for found in sets(tree))
    automaton = Automaton(alphabet, _NODES_PER_STATE * max_states)
    try:
        start = automaton.start(trees[0]), automaton.start(trees[1])
        came: _Came = {start: None}
        pairs = [start]
        for pair in pairs:  # grows while it is walked: breadth first
            if automaton.accepts(pair[0]) != automaton.accepts(pair[1]):
                return "".join(alphabet.samples[symbol] for symbol in _path(came, pair))
            if pair[0] == pair[1]:
                continue
            for symbol in range(len(alphabet.samples)):
                after = automaton.step(pair[0], symbol), automaton.step(pair[1], symbol)
                if after not in came:
                    came[after] = pair, symbol
                    pairs.append(after)
            if len(pairs) > max_states:
                raise TooComplex(f"more than {max_states} pairs of states: {left!r} and {right!r}")
    except RecursionError:
        raise TooComplex(f"nested too deep: {left!r} and {right!r}") from None
    return None


def _path(came: _Came, pair: _Pair) -> list[int]:
    symbols: list[int] = []
    while (step := came[pair]) is not None:
        pair, symbol = step
        symbols.append(symbol)
    return symbols[::-1]
