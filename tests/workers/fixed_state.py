"""Runs of one step at a learning rate of nearly nothing, from the base models in a folder; twice, to resume."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from pretrain.config.loading import load_config
from pretrain.config.sections import Config
from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.distributed import start_ranks
from pretrain.training.trainer import pretrain


def main(argv: Sequence[str]) -> int:
    root, stage = Path(argv[0]), argv[1]
    ranks = start_ranks(5)
    for name in argv[2:]:
        kind, _, lora = name.partition("+")
        run = root / "runs" / name
        settings = [f"run.folder={run}", f"model.path={root / kind}", f"tokenizer.path={root / kind}"]
        settings += [f"deepspeed.zero_stage={stage}", *(["model.lora.rank=2"] if lora else [])]
        config = load_config(root / "run.yaml", settings, Config)
        pretrain(config, ranks)
        ranks.on_main(lambda run=run: str(shutil.move(run / "export", run / "first")))  # type: ignore[misc]
        pretrain(config, ranks)  # from its checkpoint
    return 0


if __name__ == "__main__":
    exit_rank(run_command(main))
