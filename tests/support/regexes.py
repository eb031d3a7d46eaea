"""What a regex matches, by the automata of `pretrain.regular_languages`."""

from pretrain.regular_languages import MAX_STATES, difference
from pretrain.regular_languages.alphabet import Alphabet
from pretrain.regular_languages.automaton import Automaton, sets
from pretrain.regular_languages.syntax import parse


def equivalent(left: str, right: str, max_states: int = MAX_STATES) -> bool:
    return difference(left, right, max_states) is None


def is_empty(regex: str) -> bool:
    return equivalent(regex, "~(.*)")


def is_universal(regex: str) -> bool:
    return equivalent(regex, ".*")


def matches(regex: str, line: str) -> bool:
    tree = parse(regex)
    alphabet = Alphabet(sets(tree))
    automaton = Automaton(alphabet, 10 * MAX_STATES)
    state = automaton.start(tree)
    for character in line:
        state = automaton.step(state, alphabet.symbol(character))
    return automaton.accepts(state)
