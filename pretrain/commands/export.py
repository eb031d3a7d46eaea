"""The command ``python -m pretrain.export``."""

import sys

from pretrain.checkpoint.export import main
from pretrain.runtime.command import run_command

if __name__ == "__main__":
    sys.exit(run_command(main))
