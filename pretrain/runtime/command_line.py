"""The command line that every command has: options, and settings of a config as ``key=value`` words at the end."""

import argparse
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from pretrain.runtime.errors import DiptychError
from pretrain.runtime.suggestions import suggestion


class CommandLine(argparse.ArgumentParser):
    """A parser whose errors are one line with the nearest option.

    Args:
        command: What follows ``python -m``.
        description: What ``--help`` prints first; it shows how the command is called.
        epilog: What ``--help`` prints last.
    """

    def __init__(self, command: str, description: str | None, epilog: str | None = None) -> None:
        super().__init__(
            f"python -m {command}",
            usage=argparse.SUPPRESS,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def add_config(self) -> None:
        """Adds ``words``: a config and settings on top of it, for ``load_config(*split_arguments(words))``."""
        self.add_argument(
            "words",
            nargs="*",
            default=[],
            metavar="CONFIG.yaml key=value",
            help="a config, and settings on top of it by their dotted key, such as train.steps=100",
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parses a command line; options may stand anywhere. What launchers add (``--local_rank``) is left out.

        Raises:
            DiptychError: An option is unknown, missing or wrong.
            SystemExit: Help was asked for and printed.
        """
        words = [word for word in argv if not word.startswith("--local_rank")]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            name = word.partition("=")[0]
            if name.startswith("-") and not _is_number(name) and name not in self._option_string_actions:
                hint = suggestion(name, [*known[1:], "--help"])
                raise DiptychError(f"{name}: unknown option; {hint} ({self.prog} --help lists all)")
        options, rest = self.parse_known_intermixed_args(words)
        if rest:
            self.error(f"{rest[0]}: one word too many")
        return options

    def error(self, message: str) -> NoReturn:
        """Refuses the command line.

        Raises:
            DiptychError: Always.
        """
        what, colon, problem = message.removeprefix("argument ").partition(": ")
        if what == "the following arguments are required":
            what, problem = problem, "are missing" if ", " in problem else "is missing"
        problem = problem.replace("expected one argument", "needs a value")
        raise DiptychError(f"{what}{colon}{problem}; {self.prog} --help lists all options")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            hint = suggestion(str(value), map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is no {action.dest}; {hint}")


def whole_number(least: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers of at least ``least``."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= 18 and int(text) >= least):
            raise argparse.ArgumentTypeError(f"{text[:40]!r}: needs a whole number of at least {least}")
        return int(text)

    return read


def _is_number(word: str) -> bool:
    return word[1:2].isdigit() or word[1:2] == "."
