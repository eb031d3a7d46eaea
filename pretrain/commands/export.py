"""The command ``python -m pretrain.export``."""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command


def main(argv: Sequence[str]) -> int:
    """Imports what takes long once signals are listened to."""
    from pretrain.checkpoint.export import main

    return main(argv)


if __name__ == "__main__":
    sys.exit(run_command(main))
