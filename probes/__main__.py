"""Probe frozen representations and write a report.

    python -m probes MODEL [MODEL ...] --data SET [SET ...]
    deepspeed launch/probe.sh MODEL [MODEL ...] --data SET ...     all GPUs of this node, or of a --hostfile

MODEL is a Hugging Face folder or hub name, a run folder (its export), or a checkpoint of a run; SET is a registered
name (rotten_tomatoes), NAME=PATH for local files, a path, hub:NAME, or reviews (the embedded grammar). The report is
index.html, report.md, report.json, pictures, and predictions.parquet: what every probe predicts for every test text.
A problem with one set or model does not stop the others; the exit status is then 1.
"""

from collections.abc import Sequence

from pretrain.runtime.command import exit_rank, run_command
from pretrain.runtime.preemption import preemption


def main(argv: Sequence[str]) -> int:
    """The command ``python -m probes``."""
    import os
    import shlex

    import torch

    from pretrain.runtime.distributed import Ranks, start_ranks
    from pretrain.runtime.rank_environment import rank_environment
    from probes.arguments import read_arguments

    settings = read_arguments(argv, str(__doc__))
    preemption.words = f"before the report; start it again: what was encoded is kept in {settings.cache}"
    from probes.examples import write_predictions
    from probes.reporting import check_folder, write_report, write_tensorboard
    from probes.run import ProbingRun

    if rank_environment(os.environ)["WORLD_SIZE"] != "1":
        ranks = start_ranks(60)
    else:
        ranks = Ranks(0, 1, torch.accelerator.current_accelerator() or torch.device("cpu"))
    ranks.on_main(lambda: check_folder(settings.out))  # before hours of work, not after
    words = [word for word in argv if not word.startswith("--local_rank")]
    run = ProbingRun(settings, ranks, shlex.join(["python", "-m", "probes", *words]))
    with ranks.leaving_together():
        report = run.run()

    def write() -> None:
        page = write_report(report, settings.out)
        write_predictions(run.measured, settings.out)
        write_tensorboard(report, settings.out / "tensorboard")
        run.write_projector(settings.out / "tensorboard")
        print(page, flush=True)

    ranks.on_main(write)
    return 1 if report.problems else 0


if __name__ == "__main__":
    exit_rank(run_command(main))
