"""Ranks: starting the process group and the few collectives that are not DeepSpeed's."""

import os
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import psutil
import torch
import torch.distributed as dist

from pretrain.runtime.accelerator import name_accelerator
from pretrain.runtime.errors import DiptychError, may_pass
from pretrain.runtime.preemption import Preempted, preemption
from pretrain.runtime.rank_environment import device_index, missing_hostfile, rank_environment, unused_tasks
from pretrain.runtime.rendezvous import connecting, meet
from pretrain.runtime.tested_versions import check_versions

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """The rank of this process, and the collectives of all ranks.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        device: Where this process computes.
    """

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        """True on the one rank that prints and writes shared files."""
        return self.rank == 0

    @contextmanager
    def leaving_together(self) -> Iterator[None]:
        """Within it a signal to stop interrupts only ``long`` actions of :meth:`agree`, so that no rank leaves alone.

        A single process leaves at once.
        """
        with preemption.kept() if self.world_size > 1 else nullcontext():
            yield

    def barrier(self) -> None:
        """Waits for all ranks. Collective."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, numbers: torch.Tensor) -> list[float]:
        """Sums a 1-D tensor over all ranks, in place. Collective."""
        if self.world_size > 1:
            dist.all_reduce(numbers)
        return [float(number) for number in numbers.tolist()]

    def gather(self, value: T) -> list[T]:
        """Every rank's value, in the order of ranks. Collective; for small objects."""
        if self.world_size == 1:
            return [value]
        gathered: list[T] = [value] * self.world_size
        dist.all_gather_object(gathered, value)
        return gathered

    def any(self, here: bool) -> bool:
        """Whether something holds on one rank at least. Collective."""
        return self.sum(torch.tensor([float(here)], device=self.device))[0] > 0

    def agree(self, action: Callable[[], T], *, long: bool = False) -> T:
        """Runs an action on every rank; if it fails on any, all stop with the first failure. Collective.

        Args:
            action: No collective.
            long: A signal that asks this rank to stop ends the action, also while a run trains.

        Raises:
            DiptychError: Some rank's action raised one, or an ``OSError``.
            OSError: Of a kind that may pass, such as a server that does not answer: a restart may help.
            Preempted: Some rank's action was ended by a signal.
        """
        problem: str | None = None
        exception: type[BaseException] = DiptychError
        result = None
        try:
            with preemption.raised() if long else nullcontext():
                result = action()
        except DiptychError as error:
            problem = str(error)
        except OSError as error:
            problem, exception = f"{error.filename or 'file system'}: {error.strerror or error}", _exception_for(error)
        except Preempted as stop:
            problem, exception = str(stop), Preempted
        for text, raised in self.gather((problem, exception)):
            if text is not None:
                raise raised(text)
        return result  # type: ignore[return-value]

    def on_main(self, action: Callable[[], T], *, long: bool = False) -> T:
        """Runs an action on rank 0 alone and gives every rank its result. Collective.

        Args:
            action: No collective.
            long: A signal that asks rank 0 to stop ends the action, also while a run trains.

        Raises:
            DiptychError: The action raised one, or an ``OSError``.
            Preempted: The action was ended by a signal.
        """
        result = self.agree(lambda: action() if self.is_main else None, long=long and self.is_main)
        return self.gather(result)[0]  # type: ignore[return-value]


def start_ranks(timeout_minutes: int) -> Ranks:
    """Joins the process group that the launcher's environment describes; without a launcher, a group of one process."""
    check_versions()
    name_accelerator()
    import deepspeed
    import deepspeed.ops

    # DeepSpeed would compile a shared-memory collective on the CPU at the first start (minutes, needs g++); gloo alone
    # serves as well (deepspeed 0.19.8, accelerator/cpu_accelerator.py, comm/torch.py).
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # DeepSpeed 0.19.8 under torch 2.13 repeats this warning at every collective.
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+` is deprecated", category=FutureWarning)
    if note := unused_tasks(os.environ):
        print(note, file=sys.stderr, flush=True)
    if hostfile := missing_hostfile(_commands_above()):
        raise DiptychError(f"--hostfile {hostfile}: no such file")
    os.environ.update(rank_environment(os.environ))
    if os.environ["WORLD_SIZE"] == "1" and "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    from deepspeed.accelerator import get_accelerator

    accelerator = get_accelerator()
    local_rank = int(os.environ["LOCAL_RANK"])
    if accelerator.device_name() != "cpu":
        local_rank = device_index(os.environ, accelerator.device_count())
        os.environ["LOCAL_RANK"] = str(local_rank)  # DeepSpeed's engine takes it for the device
    accelerator.set_device(local_rank)
    device = torch.device(accelerator.device_name(local_rank) if accelerator.device_name() != "cpu" else "cpu")
    if os.environ["WORLD_SIZE"] == "1":
        # A group of several ranks is bound to its device by DeepSpeed, one of a single rank is not, as NCCL may fail to
        # split it (DeepSpeed #8248). Its barriers run on the current device, which is the right one.
        warnings.filterwarnings("ignore", message=r"barrier\(\): using the device under current context")
    store = meet()
    with connecting():
        deepspeed.init_distributed(
            dist_backend=accelerator.communication_backend_name(),
            timeout=timedelta(minutes=timeout_minutes),
            verbose=False,
        )
        # Some backends connect at the first collective. Not a barrier: NCCL would guess the device of the first one.
        first = torch.zeros(1, device=device)
        dist.all_reduce(first)
        first.item()  # waits for it
    del store
    if accelerator.device_name() == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        # More threads than cores over all ranks of this machine would fight each other.
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_SIZE", "1"))))
    return Ranks(dist.get_rank(), dist.get_world_size(), device)


def _exception_for(error: OSError) -> type[Exception]:
    return OSError if may_pass(error) else DiptychError


def _commands_above() -> Iterator[list[str]]:
    """Command lines of the processes that started this one."""
    for process in psutil.Process().parents():
        with suppress(psutil.Error):  # ended meanwhile, or another user's
            yield process.cmdline()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
