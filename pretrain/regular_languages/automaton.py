r"""The automaton of a regex, made as it is needed: its states are derivatives of the expression.

The derivative of an expression for a symbol matches what may follow the symbol (Brzozowski 1964). A word boundary looks
at both sides of a place, so whether an expression matches the empty stretch is known for each of the four contexts (a
character of a word before, one after), and a state is an expression with whether the last character was one of a word.
Complement and intersection are derived like union. Expressions are kept in a normal form, equal ones as one object, so
that there are finitely many and few of them.
"""

from collections.abc import Iterator
from typing import Final, TypeAlias

from pretrain.regular_languages.alphabet import Alphabet
from pretrain.regular_languages.syntax import (
    ANY,
    Both,
    Boundary,
    Characters,
    Either,
    Expression,
    Not,
    Ranges,
    Repeat,
    Sequence,
)

# Contexts of a place as bits: bit 2 * (a character of a word before) + (one after).
_ALWAYS: Final = 0b1111
_AT_BOUNDARY: Final = 0b0110

# Keeps a few states of very many parts from taking long; real regexes stay far below.
_JOINS_PER_NODE: Final = 20


class TooComplex(Exception):
    """The automaton is larger than the bound."""


class Node:
    """An expression in normal form, one object per expression.

    Attributes:
        kind: What the items mean; ``set`` has none.
        items: The parts.
        numbers: ``set``: the symbols as bits; ``repeat``: from, to (-1: no end).
        empty: The contexts in which it matches the empty stretch, as bits.
        first: The symbols that a match may begin with, as bits; others have no derivative but nothing.
        looks: Whether it holds a word boundary, so that what came before matters.
        after: Its derivatives made so far, by symbol (times two, plus one after a character of a word).
    """

    __slots__ = ("after", "empty", "first", "items", "kind", "looks", "number", "numbers")

    def __init__(self, number: int, kind: str, items: "tuple[Node, ...]", numbers: tuple[int, ...], empty: int) -> None:
        self.number = number
        self.kind = kind
        self.items = items
        self.numbers = numbers
        self.empty = empty
        self.looks: bool = kind == "boundary" or any(item.looks for item in items)
        self.first = self._first()
        self.after: dict[int, Node] = {}

    def _first(self) -> int:
        if self.kind == "set":
            return self.numbers[0]
        if self.kind == "not":
            return -1
        if self.kind == "sequence" and not self.items[0].empty:
            return self.items[0].first
        first = -1 if self.kind == "both" else 0
        for item in self.items:
            first = first & item.first if self.kind == "both" else first | item.first
        return first


State: TypeAlias = tuple[Node, bool]
"""What may follow, and whether the last character was one of a word (False where it does not matter)."""


class Automaton:
    """The automata of regexes over one alphabet; they share their states, and equal states are equal objects.

    Args:
        alphabet: Keeps apart (at least) the sets of the expressions.
        max_nodes: Bound on the expressions made; beyond it, or with unions and intersections of very many parts,
            every method raises ``TooComplex``.
    """

    def __init__(self, alphabet: Alphabet, max_nodes: int) -> None:
        self.alphabet = alphabet
        self._max_nodes = max_nodes
        self._joins = 0
        self._nodes: dict[tuple[object, ...], Node] = {}
        self._nothing = self._set(0)
        self._any = self._set(alphabet.mask(ANY))
        self._nil = self._node("nil", (), (), _ALWAYS)
        self._all = self._node("repeat", (self._any,), (0, -1), _ALWAYS)

    # ------------------------------------------------------------------------------------------------------- states

    def start(self, tree: Expression) -> State:
        """Return the state before the first character; raises ``TooComplex``."""
        return self._build(tree), False

    def step(self, state: State, symbol: int) -> State:
        """Return the state after one more symbol; raises ``TooComplex``."""
        node = self._derive(state[0], state[1], symbol)
        return node, node.looks and bool(self.alphabet.word >> symbol & 1)

    def accepts(self, state: State) -> bool:
        """Tell whether a line that ends here is matched."""
        return bool(state[0].empty >> 2 * state[1] & 1)

    def _derive(self, node: Node, before: bool, symbol: int) -> Node:
        if not node.first >> symbol & 1:
            return self._nothing
        key = 2 * symbol + (before and node.looks)
        found = node.after.get(key)
        if found is None:
            found = node.after[key] = self._derivative(node, before, symbol)
        return found

    def _derivative(self, node: Node, before: bool, symbol: int) -> Node:
        kind, items = node.kind, node.items
        if kind == "set":
            return self._nil if node.numbers[0] >> symbol & 1 else self._nothing
        if kind == "either":
            return self._either([self._derive(item, before, symbol) for item in items if item.first >> symbol & 1])
        if kind == "both":
            return self._both([self._derive(item, before, symbol) for item in items])
        if kind == "not":
            return self._not(self._derive(items[0], before, symbol))
        if kind not in ("sequence", "repeat"):
            return self._nothing
        if kind == "sequence":
            rest, skips = items[1], True
        else:
            low, high = node.numbers
            rest = self._repeat(items[0], max(low - 1, 0), max(high - 1, -1))
            skips = low > 0  # otherwise what follows an empty first turn is matched without that turn, too
        taken = self._sequence(self._derive(items[0], before, symbol), rest)
        here = 2 * before + (self.alphabet.word >> symbol & 1)
        if skips and items[0].empty >> here & 1:
            return self._either([taken, self._derive(rest, before, symbol)])
        return taken

    # -------------------------------------------------------------------------------------------------- normal form

    def _node(self, kind: str, items: tuple[Node, ...], numbers: tuple[int, ...], empty: int) -> Node:
        key = (kind, numbers, *(item.number for item in items))
        found = self._nodes.get(key)
        if found is None:
            if len(self._nodes) >= self._max_nodes:
                raise TooComplex(f"more than {self._max_nodes} expressions")
            found = self._nodes[key] = Node(len(self._nodes), kind, items, numbers, empty)
        return found

    def _build(self, tree: Expression) -> Node:
        match tree:
            case Characters(kind):
                return self._set(self.alphabet.mask(kind))
            case Boundary(at):
                return self._node("boundary", (), (int(at),), _AT_BOUNDARY if at else _ALWAYS & ~_AT_BOUNDARY)
            case Sequence(items):
                node = self._nil
                for item in reversed(items):
                    node = self._sequence(self._build(item), node)
                return node
            case Either(items):
                return self._either([self._build(item) for item in items])
            case Both(items):
                return self._both([self._build(item) for item in items])
            case Not(item):
                return self._not(self._build(item))
            case Repeat(item, low, high):
                return self._repeat(self._build(item), low, -1 if high is None else high)

    def _set(self, symbols: int) -> Node:
        return self._node("set", (), (symbols,), 0)

    def _sequence(self, first: Node, rest: Node) -> Node:
        if first is self._nothing or rest is self._nothing:
            return self._nothing
        if first is self._nil:
            return rest
        if rest is self._nil:
            return first
        if first.kind == "sequence":
            return self._sequence(first.items[0], self._sequence(first.items[1], rest))
        if first.kind == "either":
            return self._either([self._sequence(item, rest) for item in first.items])
        if first is self._all and (rest.empty == _ALWAYS or (rest.kind == "sequence" and rest.items[0] is self._all)):
            return self._all if rest.empty == _ALWAYS else rest
        if rest is self._all and first.empty == _ALWAYS:
            return self._all
        return self._node("sequence", (first, rest), (), first.empty & rest.empty)

    def _either(self, items: list[Node]) -> Node:
        items = [item for item in items if item is not self._nothing]
        if len(items) == 1:
            return items[0]
        found = self._flat("either", items)
        if self._all in found:
            return self._all
        symbols = 0
        for item in [item for item in found if item.kind == "set"]:
            symbols |= item.numbers[0]
            del found[item]
        if symbols:
            found[self._set(symbols)] = None
        if self._nil in found and any(item.empty == _ALWAYS and item is not self._nil for item in found):
            del found[self._nil]
        if not found:
            return self._nothing
        empty = 0
        for item in found:
            empty |= item.empty
        return self._joined("either", found, empty)

    def _both(self, items: list[Node]) -> Node:
        found = self._flat("both", items)
        found.pop(self._all, None)
        if self._nothing in found:
            return self._nothing
        empty, symbols, has_set = _ALWAYS, -1, False
        for item in list(found):
            empty &= item.empty
            if item.kind == "set":
                symbols, has_set = symbols & item.numbers[0], True
                del found[item]
        if self._nil in found and (empty in (0, _ALWAYS) or has_set):
            return self._nil if empty == _ALWAYS else self._nothing
        if has_set:
            found[self._set(symbols)] = None
            if not symbols:
                return self._nothing
        return self._joined("both", found, empty) if found else self._all

    def _flat(self, kind: str, items: list[Node]) -> dict[Node, None]:
        found: dict[Node, None] = {}
        for item in items:
            found.update(dict.fromkeys(item.items if item.kind == kind else (item,)))
        self._joins += len(found)
        if self._joins > _JOINS_PER_NODE * self._max_nodes:
            raise TooComplex(f"more than {_JOINS_PER_NODE * self._max_nodes} parts of unions and intersections")
        return found

    def _joined(self, kind: str, found: dict[Node, None], empty: int) -> Node:
        if len(found) == 1:
            return next(iter(found))
        return self._node(kind, tuple(sorted(found, key=lambda item: item.number)), (), empty)

    def _not(self, item: Node) -> Node:
        if item.kind == "not":
            return item.items[0]
        if item is self._nothing or item is self._all:
            return self._all if item is self._nothing else self._nothing
        return self._node("not", (item,), (), _ALWAYS & ~item.empty)

    def _repeat(self, item: Node, low: int, high: int) -> Node:
        if item.empty == _ALWAYS:
            low = 0
        if high == 0 or item is self._nil or (low == 0 and item is self._nothing):
            return self._nil
        if item is self._nothing or low == high == 1:
            return item
        if item.kind == "repeat" and item.numbers[0] in (0, 1) and (item.numbers[1] == -1 or high == -1) and low <= 1:
            low, high = item.numbers[0] * low, -1
            item = item.items[0]
        return self._node("repeat", (item,), (low, high), _ALWAYS if low == 0 else item.empty)


def sets(tree: Expression) -> Iterator[Ranges]:
    """Yield the sets of characters that an expression is made of."""
    match tree:
        case Characters(kind):
            yield kind
        case Sequence(items) | Either(items) | Both(items):
            for item in items:
                yield from sets(item)
        case Not(item) | Repeat(item, _, _):
            yield from sets(item)
