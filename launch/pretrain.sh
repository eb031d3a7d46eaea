#!/bin/sh
""":"
# One file, two languages (see launch.sh): a shell hands it to the deepspeed launcher, which starts it with Python.
#
#   deepspeed [launcher options] launch/pretrain.sh [CONFIG.yaml] [key=value ...]
#   bash launch/pretrain.sh [launcher options] [CONFIG.yaml] [key=value ...]
. "$(dirname -- "$0")/launch.sh"
":"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pretrain.__main__ import main
from pretrain.runtime.command import BEFORE_TRAINING, exit_rank, run_command

if __name__ == "__main__":  # not in a worker process that prepares data
    exit_rank(run_command(main, BEFORE_TRAINING))
