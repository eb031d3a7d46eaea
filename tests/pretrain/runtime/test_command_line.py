"""The command line that all commands share."""

import pytest

from pretrain.runtime.command_line import CommandLine, whole_number
from pretrain.runtime.errors import DiptychError


def command_line() -> CommandLine:
    parser = CommandLine("thing", "What it does.")
    parser.add_config()
    parser.add_argument("--count", type=whole_number(1), default=2)
    parser.add_argument("--style", choices=("plain", "chat"))
    parser.add_argument("--dry-run", action="store_true")
    return parser


def test_options_stand_anywhere_and_settings_stay_in_their_order() -> None:
    words = ["--local_rank=1", "a.yaml", "--count", "3", "b.c=-1", "--dry-run", "d=[1, 2]", "--style=chat"]
    options = command_line().read(words)
    assert (options.words, options.count) == (["a.yaml", "b.c=-1", "d=[1, 2]"], 3)
    assert (options.style, options.dry_run) == ("chat", True)
    assert command_line().read([]).words == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--dry-ran"], "--dry-ran: unknown option; did you mean --dry-run? (python -m thing --help lists all)"),
        (["--dry"], "--dry: unknown option; did you mean --dry-run?"),  # no abbreviations
        (["-z"], "-z: unknown option; known: --count, --style, --dry-run, --help"),
        (["--count"], "--count: needs a value; python -m thing --help lists all options"),
        (["--count", "-1"], "--count: '-1': needs a whole number of at least 1"),
        (["--count", "1e3"], "--count: '1e3': needs a whole number of at least 1"),
        (["--style", "plan"], "--style: 'plan' is no style; did you mean plain?"),
        (["--style", "zzz"], "--style: 'zzz' is no style; known: plain, chat"),
    ],
)
def test_a_mistake_is_one_line_with_the_nearest_name(words: list[str], message: str) -> None:
    with pytest.raises(DiptychError) as error:
        command_line().read(words)
    assert str(error.value).startswith(message)


def test_help_shows_how_the_command_is_called(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        command_line().read(["x=1", "--help"])
    assert capsys.readouterr().out.startswith("What it does.\n\n")
