"""Memory, speed and cost of a run before any machine is rented.

    python -m launch plan CONFIG.yaml [key=value ...] --gpus 64 --gpu h100-80gb

    --gpus N             ranks, one on each GPU
    --gpu NAME           a100-40gb, a100-80gb, h100-80gb, h200-141gb, b200, l40s, mi300x or cpu
    --gpus-per-node N    8 unless told
    --network NAME       between nodes: ib-200, ib-400 (unless told), ib-800, ethernet-400, -100, -25 or -10
    --tokens N           to train on, such as 1e12; else train.steps, or train.epochs of --corpus
    --corpus FOLDER      a prepared corpus, for exact figures of its rows
    --used SHARE         of positions that hold tokens, without a corpus (0.95)
    --price P            of one GPU for an hour
    --disk GB/S          what the file system takes in all (2)
    --host-memory GIB    of a node (1024)
    --json               plain data in place of a text

Nothing is built or downloaded but the model's config: no weights, no data, no GPU. A plan that does not fit names the
first change that makes it fit.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pretrain.runtime.errors import DiptychError

if TYPE_CHECKING:
    from launch.planner.job import Job, Machines
    from launch.planner.report import Plan
    from pretrain.config.sections import Config


def main(argv: Sequence[str]) -> int:
    """The command ``python -m launch plan``; 0 if the plan fits, 1 if not."""
    options = _parser().parse_intermixed_args(list(argv))
    if options.help:
        print(__doc__)
        return 0
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

    path, overrides = split_arguments(options.config)

    def plan_again(settings: Sequence[str], changed: "Machines") -> "Job":
        return make_job(_load(path, [*overrides, *settings]), changed, corpus=options.corpus, used=options.used)

    job = plan_again((), machines)
    memory = plan_memory(job)
    remedy = None if memory.fits else find_remedy(job, plan_again)
    return Plan(job, memory, plan_speed(job, price=options.price, tokens=options.tokens), remedy)


def parse(argv: Sequence[str]) -> Any:
    """The options of a command line, for :func:`make_plan`."""
    return _parser().parse_intermixed_args(list(argv))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise DiptychError(f"plan: {message}; python -m launch plan --help lists all options")


def _parser() -> _Parser:
    parser = _Parser(prog="python -m launch plan", add_help=False, allow_abbrev=False)
    parser.add_argument("config", nargs="*")
    parser.add_argument("--gpus", type=int)
    parser.add_argument("--gpu", default="h100-80gb")
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--network", default="ib-400")
    parser.add_argument("--tokens", type=float)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--used", type=float, default=0.95)
    parser.add_argument("--price", type=float)
    parser.add_argument("--disk", type=float, default=2.0)
    parser.add_argument("--host-memory", type=float, default=1024.0)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--help", "-h", action="store_true")
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
