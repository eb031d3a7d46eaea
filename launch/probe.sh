#!/bin/sh
""":"
# One file, two languages (see launch.sh): a shell hands it to the deepspeed launcher, which starts it with Python.
#
#   deepspeed [launcher options] launch/probe.sh MODEL [MODEL ...] --data SET [SET ...]
#   bash launch/probe.sh [launcher options] MODEL [MODEL ...] --data SET [SET ...]
. "$(dirname -- "$0")/launch.sh"
":"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from pretrain.runtime.command import exit_rank, run_command
from probes.__main__ import main

if __name__ == "__main__":
    exit_rank(run_command(main))
