"""The command ``python -m pretrain.conformance``."""

import sys

from pretrain.runtime.command import run_command
from pretrain.tools.conformance import main

if __name__ == "__main__":
    sys.exit(run_command(main))
