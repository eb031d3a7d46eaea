"""Fine-tune a Hugging Face causal LM on a task, with or without the embedding objective.

    python -m finetune CONFIG.yaml [key=value ...]     one process
    deepspeed launch/finetune.sh CONFIG.yaml [key=value ...]     all GPUs of this node, or of a --hostfile

model.path names the model (none: a new one is trained from scratch on the task), task.name the task, data.train its
files. All settings of pre-training apply; the answers of the result are scored by python -m finetune.evaluate.
"""

from collections.abc import Sequence

from pretrain.runtime.command import BEFORE_TRAINING, exit_rank, run_command


def main(argv: Sequence[str]) -> int:
    """The command ``python -m finetune``."""
    from finetune.config import FinetuneConfig
    from pretrain.config.loading import load_config, settings_help, split_arguments
    from pretrain.runtime.command_line import CommandLine
    from pretrain.runtime.errors import DiptychError

    parser = CommandLine("finetune", __doc__, f"settings with their defaults:\n\n{settings_help(FinetuneConfig)}")
    parser.add_config()
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the config, what the model is asked, sizes and costs, run one mock step, write nothing",
    )
    options = parser.read(argv)
    path, overrides = split_arguments(options.words)
    if path is None:
        raise DiptychError("name a config first: python -m finetune CONFIG.yaml key=value ...")
    config = load_config(path, overrides, FinetuneConfig)
    from finetune.dry_run import dry_run
    from finetune.training import finetune
    from pretrain.engine.checks import check_with_libraries
    from pretrain.runtime.distributed import start_ranks

    check_with_libraries(config, path)
    stage = dry_run if options.dry_run else finetune
    stage(config, start_ranks(config.train.timeout_minutes))
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main, BEFORE_TRAINING))
