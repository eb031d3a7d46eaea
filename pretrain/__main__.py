"""Pre-train a language model from scratch on multi-view text.

    python -m pretrain [CONFIG.yaml] [key=value ...]     one process
    deepspeed launch/pretrain.sh [CONFIG.yaml] [key=value ...]     all GPUs of this node, or of a --hostfile

Without a config the embedded default runs: a small model on generated reviews. Settings are dotted keys of the
config; give them in YAML or as key=value.

    --dry-run    print the resolved config, sizes and costs, run one mock step, write nothing
    --help       this text
"""

from collections.abc import Sequence

from pretrain.runtime.command import BEFORE_TRAINING, exit_rank, run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m pretrain``."""
    arguments = [argument for argument in argv if not argument.startswith("--local_rank")]
    from pretrain.config.loading import load_config, settings_help, split_arguments
    from pretrain.runtime.errors import DiptychError

    if "--help" in arguments or "-h" in arguments:
        print(f"{__doc__}\nSettings, with their defaults in a config (the embedded default sets some of its own, see")
        print(f"pretrain/demo.yaml):\n\n{settings_help()}")
        return 0
    dry_run = "--dry-run" in arguments
    arguments = [argument for argument in arguments if argument != "--dry-run"]
    if unknown := [argument for argument in arguments if argument.startswith("-")]:
        raise DiptychError(f"{unknown[0]}: unknown option; python -m pretrain --help lists all")
    path, overrides = split_arguments(arguments)
    config = load_config(path, overrides)  # before torch is imported: a mistake is said at once
    from pretrain.engine.checks import check_with_libraries
    from pretrain.runtime.distributed import start_ranks
    from pretrain.training.trainer import pretrain

    check_with_libraries(config, path)
    ranks = start_ranks(config.train.timeout_minutes)
    if dry_run:
        from pretrain.tools.dry_run import dry_run as run_dry

        run_dry(config, ranks)
    else:
        pretrain(config, ranks)
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main, BEFORE_TRAINING))
