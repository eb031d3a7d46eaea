"""The one exception that users are meant to see."""

import errno


class DiptychError(Exception):
    """Wrong input or a failed precondition.

    The message names the place (``file:line``, config key, parameter), says what was expected and what to do about
    it. The command line prints it as one line, without a traceback, and exits with status 1 on all ranks.
    """


def may_pass(error: OSError) -> bool:
    """Whether it is what a network file system says while its server is away: then a restart may help."""
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
