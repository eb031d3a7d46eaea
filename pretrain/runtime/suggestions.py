"""The known name that an unknown one resembles, for messages."""

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name whose first words are this one, else the most similar one, else None; in any case of letters."""
    by_lower = {word.lower(): word for word in known}
    name = name.lower()
    near = [word for word in by_lower if word.startswith((f"{name}-", f"{name}_"))]
    near = near or difflib.get_close_matches(name, by_lower, n=1)
    return by_lower[near[0]] if near else None


def suggestion(name: str, known: Iterable[str]) -> str:
    """The end of a message: the nearest name as ``did you mean X?``, or all of them as ``known: X, Y``."""
    known = [*known]
    near = nearest(name, known)
    return f"did you mean {near}?" if near else f"known: {', '.join(known)}"
