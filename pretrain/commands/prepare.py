"""The command ``python -m pretrain.prepare``."""

import sys

from pretrain.preparation.prepare import main
from pretrain.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main, "before the end; start it again: what was prepared is kept"))
