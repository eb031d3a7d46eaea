"""The exception whose message is written for users."""

import errno
import re
import unicodedata

_PLAIN = re.compile(r"[ -~]*(\n  [ -~]*)*")


class DiptychError(Exception):
    """Wrong input or a failed precondition.

    The message names the place (``file:line``, config key, parameter), says what was expected and what to do about
    it. The command line prints it as one line, without a traceback, and exits with status 1 on all ranks. A list of
    problems has one more line each, indented by two spaces.

    A message may quote files: line ends, control characters and half surrogate pairs are escaped.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message if _PLAIN.fullmatch(message) else "\n  ".join(map(_escaped, message.split("\n  "))))


def _escaped(text: str) -> str:
    return "".join(
        character.encode("unicode_escape").decode() if _is_odd(character) else character for character in text
    )


def _is_odd(character: str) -> bool:
    category = unicodedata.category(character)
    return category in ("Zl", "Zp") or (category[0] == "C" and category not in ("Co", "Cn"))


def may_pass(error: OSError) -> bool:
    """Whether a network file system raises it while its server is unreachable: then a restart may help."""
    return error.errno in _PASSING


_PASSING = {
    errno.EIO,
    errno.ESTALE,
    errno.ETIMEDOUT,
    errno.EHOSTDOWN,
    errno.EREMOTEIO,
    errno.ENETDOWN,
    errno.ECONNRESET,
}
