#!/bin/sh
""":"
# One file, two languages (see launch.sh): a shell hands it to the deepspeed launcher, which starts it with Python.
#
#   deepspeed [launcher options] launch/finetune.sh CONFIG.yaml [key=value ...]
#   bash launch/finetune.sh [launcher options] CONFIG.yaml [key=value ...]
. "$(dirname -- "$0")/launch.sh"
":"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.realpath(__file__))))

from finetune.__main__ import main
from pretrain.runtime.command import BEFORE_TRAINING, exit_rank, run_command

if __name__ == "__main__":  # not in a worker process that prepares data
    exit_rank(run_command(main, BEFORE_TRAINING))
