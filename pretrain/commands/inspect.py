"""The command ``python -m pretrain.inspect``."""

import sys

from pretrain.runtime.command import run_command
from pretrain.tools.inspect import main

if __name__ == "__main__":
    sys.exit(run_command(main))
