"""Characters in as few symbols as keep given sets apart, so that automata need not know all of Unicode."""

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from pretrain.regular_languages.syntax import ANY, WORD, Ranges

_NICE: Final = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 _-.,:;!?"


class Alphabet:
    """All characters of a line, in as few symbols as keep some sets (and those of a word) apart.

    Attributes:
        samples: A character of each symbol, printable where there is one.
        word: The symbols of ``[A-Za-z0-9_]``, as bits.
        all: All symbols, as bits.
    """

    def __init__(self, apart: Iterable[Ranges]) -> None:
        kinds = list(dict.fromkeys([ANY, WORD, *apart]))
        # Within a stretch between two neighbouring bounds no set begins or ends.
        self._bounds = sorted({bound for kind in kinds for low, high in kind for bound in (low, high + 1)} | {0})
        belongs = [0] * len(self._bounds)
        for bit, kind in enumerate(kinds):
            for low, high in kind:
                first, last = self._stretch(low), self._stretch(high)
                for stretch in range(first, last + 1):
                    belongs[stretch] |= 1 << bit
        # The symbols are numbered from the nicest sample on, so that examples read well.
        numbers: dict[int, int] = {}
        samples: list[str] = []
        for character in (*_NICE, *map(chr, self._bounds[:-1])):
            member = belongs[self._stretch(ord(character))]
            if member & 1 and member not in numbers:
                numbers[member] = len(samples)
                samples.append(character)
        self.samples = tuple(samples)
        self._symbols = [numbers.get(member, -1) for member in belongs]
        self._masks = {
            kind: sum(1 << number for member, number in numbers.items() if member >> bit & 1)
            for bit, kind in enumerate(kinds)
        }
        self.word = self._masks[WORD]
        self.all = self._masks[ANY]

    def _stretch(self, code: int) -> int:
        return bisect_right(self._bounds, code) - 1

    def symbol(self, character: str) -> int:
        """Return the number of the symbol that stands for a character; -1 for a line break."""
        return self._symbols[self._stretch(ord(character))]

    def mask(self, kind: Ranges) -> int:
        """Return the symbols of one of the sets that the alphabet keeps apart, as bits."""
        return self._masks[kind]
