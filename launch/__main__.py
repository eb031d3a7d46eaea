"""Submit, watch and plan runs on a cluster.

    python -m launch submit PIPELINE.yaml [--dry-run]     pre-training, fine-tuning and probing as Slurm jobs
    python -m launch status [RUN_OR_FOLDER ...]           where each run is
    python -m launch plan CONFIG.yaml ...                 memory, time and cost before anything is started

Each has --help. A single job needs none of this: sbatch launch/slurm/pretrain.sbatch CONFIG.yaml (docs/cluster.md).
"""

import sys
from collections.abc import Sequence

from pretrain.runtime.command import run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch``."""
    from pretrain.runtime.command_line import CommandLine

    parser = CommandLine("launch", __doc__)
    parser.add_argument("command", choices=("submit", "status", "plan"))
    command, rest = parser.read(argv[:1]).command, argv[1:]
    if command == "submit":
        from launch import submit

        return submit.main(rest)
    if command == "status":
        from launch import status

        return status.main(rest)
    from launch import planner

    return planner.main(rest)


if __name__ == "__main__":
    sys.exit(run_command(main))
