"""The one exception that users are meant to see."""


class DiptychError(Exception):
    """Wrong input or a failed precondition.

    The message names the place (``file:line``, config key, parameter), says what was expected and what to do about
    it. The command line prints it as one line, without a traceback, and exits with status 1 on all ranks.
    """
