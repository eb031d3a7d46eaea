"""Pre-train a language model from scratch on multi-view text.

    python -m pretrain [CONFIG.yaml] [key=value ...]     one process
    deepspeed launch/pretrain.sh [CONFIG.yaml] [key=value ...]     all GPUs of this node, or of a --hostfile

Without a config the embedded default runs: a small model on generated reviews.
"""

from collections.abc import Sequence

from pretrain.runtime.command import BEFORE_TRAINING, exit_rank, run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain``."""
    from pretrain.config.loading import load_config, settings_help, split_arguments
    from pretrain.runtime.command_line import CommandLine

    default = "the embedded default, pretrain/demo.yaml, sets some of its own"
    parser = CommandLine("pretrain", __doc__, f"settings with their defaults ({default}):\n\n{settings_help()}")
    parser.add_config()
    parser.add_argument(
        "--dry-run", action="store_true", help="print the config, sizes and costs, run one mock step, write nothing"
    )
    options = parser.read(argv)
    path, overrides = split_arguments(options.words)
    config = load_config(path, overrides)  # before torch is imported: a mistake is said at once
    from pretrain.engine.checks import check_with_libraries
    from pretrain.runtime.distributed import start_ranks
    from pretrain.training.trainer import pretrain

    check_with_libraries(config, path)
    ranks = start_ranks(config.train.timeout_minutes)
    if options.dry_run:
        from pretrain.tools.dry_run import dry_run as run_dry

        run_dry(config, ranks)
    else:
        pretrain(config, ranks)
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main, BEFORE_TRAINING))
