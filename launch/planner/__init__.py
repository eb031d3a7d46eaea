"""Memory, speed and cost of a run before any machine is rented.

    python -m launch plan CONFIG.yaml [key=value ...] --gpus 64 --gpu h100-80gb

Nothing is built or downloaded but the model's config: no weights, no data, no GPU. A plan that does not fit names the
first change that makes it fit.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pretrain.runtime.command_line import CommandLine
from pretrain.runtime.errors import DiptychError

if TYPE_CHECKING:
    from launch.planner.job import Job, Machines
    from launch.planner.report import Plan
    from pretrain.config.sections import Config


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch plan``; 0 if the plan fits, 1 if not."""
    options = parse(argv)
    plan = make_plan(options)
    from launch.planner.report import as_data, as_text

    print(json.dumps(as_data(plan), indent=1) if options.json else as_text(plan))
    return 0 if plan.memory.fits else 1


def make_plan(options: Any) -> "Plan":
    """Plans what the command line asks for.

    Raises:
        DiptychError: An option or the config is wrong.
    """
    machines = _machines(options)
    from launch.planner.job import make_job
    from launch.planner.memory import plan_memory
    from launch.planner.remedies import find_remedy
    from launch.planner.report import Plan
    from launch.planner.speed import plan_speed
    from pretrain.config.loading import split_arguments

    path, overrides = split_arguments(options.words)

    def plan_again(settings: Sequence[str], changed: "Machines") -> "Job":
        return make_job(_load(path, [*overrides, *settings]), changed, corpus=options.corpus, used=options.used)

    job = plan_again((), machines)
    memory = plan_memory(job)
    remedy = None if memory.fits else find_remedy(job, plan_again)
    return Plan(job, memory, plan_speed(job, price=options.price, tokens=options.tokens), remedy)


def parse(argv: Sequence[str]) -> Any:
    """The options of a command line, for :func:`make_plan`."""
    return _parser().read(argv)


def _parser() -> CommandLine:
    parser = CommandLine("launch plan", __doc__)
    parser.add_config()
    add = parser.add_argument
    gpus = "a100-40gb, a100-80gb, h100-80gb (the default), h200-141gb, b200, l40s, mi300x or cpu"
    networks = "between nodes: ib-200, ib-400 (the default), ib-800, ethernet-400, -100, -25 or -10"
    add("--gpus", type=int, metavar="N", help="ranks, one on each GPU")
    add("--gpu", default="h100-80gb", metavar="NAME", help=gpus)
    add("--gpus-per-node", type=int, default=8, metavar="N", help="(8)")
    add("--network", default="ib-400", metavar="NAME", help=networks)
    add("--tokens", type=float, metavar="N", help="to train on, such as 1e12; else train.steps or train.epochs")
    add("--corpus", type=Path, metavar="FOLDER", help="a prepared corpus, for exact figures of its rows")
    add("--used", type=float, default=0.95, metavar="SHARE", help="of positions with tokens, without a corpus (0.95)")
    add("--price", type=float, metavar="P", help="of one GPU for an hour")
    add("--disk", type=float, default=2.0, metavar="GB/S", help="what the file system takes in all (2)")
    add("--host-memory", type=float, default=1024.0, metavar="GIB", help="of a node (1024)")
    add("--json", action="store_true", help="plain data in place of a text")
    return parser


def _machines(options: Any) -> "Machines":
    from launch.planner.devices import find_gpu, find_network
    from launch.planner.job import Machines

    if options.gpus is None:
        raise DiptychError("--gpus: say how many, such as --gpus 8")
    for name in ("gpus", "gpus_per_node", "tokens", "price", "disk", "host_memory", "used"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            raise DiptychError(f"--{name.replace('_', '-')}: {value:g}: must be more than 0")
    if options.used > 1:
        raise DiptychError(f"--used: {options.used:g}: a share is at most 1")
    return Machines(
        gpus=options.gpus,
        gpus_per_node=options.gpus_per_node,
        gpu=find_gpu(options.gpu),
        network=find_network(options.network),
        host_memory=int(options.host_memory * 2**30),
        disk=options.disk,
    )


def _load(path: Path | None, overrides: Sequence[str]) -> "Config":
    """The config; one with a task is a fine-tuning run's."""
    from finetune.config import FinetuneConfig
    from pretrain.config.loading import load_config
    from pretrain.engine.checks import check_with_libraries

    text = path.read_text(encoding="utf-8") if path is not None and path.is_file() else ""
    tuned = any(line.startswith("task:") for line in text.splitlines())
    config = load_config(path, overrides, FinetuneConfig) if tuned else load_config(path, overrides)
    check_with_libraries(config, path)
    return config
