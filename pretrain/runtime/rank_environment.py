"""From the launcher's environment to rank, world size and meeting point of this process.

torchrun and deepspeed say it in the variables that torch reads. ``srun`` says it in variables of its own, also under
``deepspeed --launcher slurm``. Without a launcher there is one process.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pretrain.runtime.errors import DiptychError

_FIRST_PORT, _PORTS = 20_000, 12_000
"""Below the range that Linux uses for outgoing connections (32768 and up)."""
_PORTS_PER_JOB = 8
_LOOPBACK = re.compile(r"localhost$|127\.|::1$")


def rank_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables that torch and DeepSpeed read.

    ``MASTER_ADDR`` and ``MASTER_PORT`` that are set already are kept.

    Args:
        environ: The environment that the launcher gave.

    Returns:
        RANK, LOCAL_RANK, WORLD_SIZE and MASTER_ADDR; LOCAL_SIZE and LOCAL_WORLD_SIZE where they are known; MASTER_PORT
        if there are several processes.

    Raises:
        DiptychError: The variables contradict each other or one is missing; names it.
    """
    if "RANK" in environ:
        variables = _from_launcher(environ)
    elif "SLURM_STEP_NUM_TASKS" in environ:
        variables = _from_step(environ)
    elif _number(environ, "WORLD_SIZE", "1") > 1:
        raise DiptychError(f"WORLD_SIZE: is {environ['WORLD_SIZE']}, but RANK is not set; start with deepspeed or srun")
    else:
        variables = _set(0, 0, 1, 1)
    if variables["WORLD_SIZE"] == "1":
        return {"MASTER_ADDR": "127.0.0.1"} | variables
    host, local_size = variables["MASTER_ADDR"], variables.get("LOCAL_SIZE")
    if local_size not in (None, variables["WORLD_SIZE"]) and _LOOPBACK.match(host):
        raise DiptychError(
            f"MASTER_ADDR: {host} is every node itself, and the ranks run on several nodes; leave it out under srun, "
            "or name the node of rank 0"
        )
    return variables


def unused_tasks(environ: Mapping[str, str]) -> str | None:
    """A line to print if Slurm gave this job several tasks but this process runs alone."""
    tasks = environ.get("SLURM_NTASKS", "1")
    if "RANK" in environ or "SLURM_STEP_NUM_TASKS" in environ or tasks == "1":
        return None
    return f"note: Slurm gave this job {tasks} tasks, but this is one process alone: start it with srun to use them all"


def missing_hostfile(commands: Iterable[Sequence[str]]) -> str | None:
    """The missing hostfile of a deepspeed launcher, which then silently runs on this machine alone; or None.

    Args:
        commands: Command lines of the processes that started this one.
    """
    for words in commands:
        if not any(Path(word).name == "deepspeed" for word in words[:2]):
            continue
        for option, value in zip(words, (*words[1:], ""), strict=True):
            if option.endswith((".sh", ".py")):  # what follows are the script's options
                break
            if option.startswith("--hostfile="):
                option, value = option.split("=", 1)
            if option in ("--hostfile", "-H") and not Path(value).is_file():
                return value
    return None


def device_index(environ: Mapping[str, str], devices: int) -> int:
    """The index of this process's device among those that it sees.

    Args:
        environ: Holds LOCAL_RANK.
        devices: How many it sees; Slurm may show a task its own one alone (``--gpus-per-task``).

    Raises:
        DiptychError: There are more processes than devices.
    """
    local_rank = int(environ["LOCAL_RANK"])
    if local_rank < devices or devices == 0:
        return local_rank
    if devices == 1 and "SLURM_STEP_NUM_TASKS" in environ:
        return 0
    raise DiptychError(
        f"LOCAL_RANK: {local_rank}, but this node shows {devices} devices; start one process per device "
        f"(deepspeed --num_gpus {devices}, srun --ntasks-per-node={devices})"
    )


def first_host(nodes: str) -> str:
    """The first name of a Slurm node list: ``rack1`` of ``rack[1-4,7],n2``."""
    first = re.split(r",(?![^\[]*\])", nodes)[0]
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first)


def _from_launcher(environ: Mapping[str, str]) -> dict[str, str]:
    rank, world_size = _number(environ, "RANK"), _number(environ, "WORLD_SIZE", "1")
    variables = {
        "RANK": str(rank),
        "LOCAL_RANK": str(_number(environ, "LOCAL_RANK", "0" if world_size == 1 else None)),
        "WORLD_SIZE": str(world_size),
    }
    local_size = environ.get("LOCAL_WORLD_SIZE", environ.get("LOCAL_SIZE"))  # torchrun's name, DeepSpeed's name
    if local_size is not None:
        variables |= {"LOCAL_SIZE": local_size, "LOCAL_WORLD_SIZE": local_size}
    if rank >= world_size:
        raise DiptychError(f"RANK: is {rank}, but WORLD_SIZE is {world_size}; start with deepspeed, torchrun or srun")
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        if name in environ:
            variables[name] = environ[name]
        elif world_size > 1:
            raise DiptychError(f"{name}: is not set; it says where the {world_size} ranks meet")
    return variables


def _from_step(environ: Mapping[str, str]) -> dict[str, str]:
    """Of a task that srun started. A job's script has most of these variables too, but none of its step."""
    world_size = _number(environ, "SLURM_STEP_NUM_TASKS")
    sizes = _tasks_per_node(environ.get("SLURM_STEP_TASKS_PER_NODE", str(world_size)))
    node = _number(environ, "SLURM_NODEID", "0")
    variables = _set(
        _number(environ, "SLURM_PROCID"),
        _number(environ, "SLURM_LOCALID"),
        world_size,
        sizes[node] if node < len(sizes) else sizes[0],
    )
    if world_size == 1:
        return variables
    nodes = environ.get("SLURM_STEP_NODELIST") or environ.get("SLURM_JOB_NODELIST", "")
    host = environ.get("MASTER_ADDR") or ("127.0.0.1" if len(sizes) == 1 else first_host(nodes))
    if not host:
        raise DiptychError("SLURM_STEP_NODELIST: is not set; export MASTER_ADDR, the node of rank 0")
    return variables | {"MASTER_ADDR": host, "MASTER_PORT": environ.get("MASTER_PORT") or str(_port(environ))}


def _port(environ: Mapping[str, str]) -> int:
    """Jobs whose numbers are near each other never share a port, nor do steps of a job, nor a job and its restart."""
    step = _number(environ, "SLURM_STEP_ID", "0") + _number(environ, "SLURM_RESTART_COUNT", "0")
    return _FIRST_PORT + (_number(environ, "SLURM_JOB_ID", "0") * _PORTS_PER_JOB + step % _PORTS_PER_JOB) % _PORTS


def _tasks_per_node(text: str) -> list[int]:
    """Slurm's ``2(x3),1`` as [2, 2, 2, 1]."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not match:
            raise DiptychError(
                f"SLURM_STEP_TASKS_PER_NODE: cannot read {text!r}; export RANK, WORLD_SIZE and MASTER_ADDR"
            )
        counts += [int(match[1])] * int(match[2] or 1)
    return counts


def _set(rank: int, local_rank: int, world_size: int, local_size: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "WORLD_SIZE": str(world_size),
        "LOCAL_SIZE": str(local_size),
        "LOCAL_WORLD_SIZE": str(local_size),
    }


def _number(environ: Mapping[str, str], name: str, default: str | None = None) -> int:
    text = environ.get(name, default)
    if text is None:
        raise DiptychError(f"{name}: is not set; start with deepspeed, torchrun or srun")
    if not text.isdecimal() or len(text) > 9:
        raise DiptychError(f"{name}: {text[:40]!r} is no whole number")
    return int(text)
