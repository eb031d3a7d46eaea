"""Submit, watch and plan runs on a cluster.

    python -m launch submit PIPELINE.yaml [--dry-run]     pre-training, fine-tuning and probing as Slurm jobs
    python -m launch status [RUN_OR_FOLDER ...]           where each run is
    python -m launch plan CONFIG.yaml ...                 memory, time and cost before anything is started

Each has --help. A single job needs none of this: sbatch launch/slurm/pretrain.sbatch CONFIG.yaml (docs/cluster.md).
"""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command
from pretrain.runtime.errors import DiptychError


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch``."""
    if not argv or argv[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if argv else 2
    command, rest = argv[0], argv[1:]
    if command == "submit":
        from launch import submit

        return submit.main(rest)
    if command == "status":
        from launch import status

        return status.main(rest)
    if command == "plan":
        from launch import planner

        return planner.main(rest)
    raise DiptychError(f"{command}: no such command; python -m launch --help lists all")


if __name__ == "__main__":
    sys.exit(run_command(main))
