"""How ranks find each other: within minutes, or with an error that says what is wrong.

torch alone would wait as long as for a collective of the training, and would name neither address nor remedy.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from pretrain.runtime.command import HUNG
from pretrain.runtime.errors import DiptychError

_INTERFACE = "set GLOO_SOCKET_IFNAME (CPU) or NCCL_SOCKET_IFNAME (GPU) to the network interface that the nodes share"


def rendezvous_seconds() -> float:
    """How long ranks may take to connect: $DIPTYCH_RENDEZVOUS_SECONDS, or 300."""
    return float(os.environ.get("DIPTYCH_RENDEZVOUS_SECONDS", "300"))


@contextmanager
def connecting() -> Iterator[None]:
    """Within it the ranks connect to each other, after the rendezvous.

    Ends this process with status 86 if that takes longer than :func:`rendezvous_seconds`: another rank was lost, or
    they speak through interfaces that do not reach each other.

    Raises:
        RuntimeError: It fails at once for the same reason.
    """
    seconds, rank = rendezvous_seconds(), os.environ["RANK"]

    def give_up() -> None:
        print(f"error: rank {rank}: no connection with the others within {seconds:g} s; {_INTERFACE}", file=sys.stderr)
        sys.stderr.flush()
        os._exit(HUNG)

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (RuntimeError, dist.DistError) as error:
        raise RuntimeError(f"rank {rank}: no connection with the other ranks; {_INTERFACE}") from error
    finally:
        timer.cancel()


def meet() -> TCPStore | None:
    """Waits some minutes for all ranks at the rendezvous; torch would wait as long as for a collective.

    Returns:
        The store at the meeting point, which rank 0 must hold until the process group is made.

    Raises:
        DiptychError: This rank reaches no meeting point within $DIPTYCH_RENDEZVOUS_SECONDS (300).
        RuntimeError: This rank is there, others are not; they may be lost, so that a restart may help.
    """
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    if world_size == 1 or os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":  # torchrun has done so
        return None
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = timedelta(seconds=rendezvous_seconds())
    place = f"MASTER_ADDR {host}, MASTER_PORT {port}"
    remedy = "it must be the node of rank 0, which every node can reach; under srun neither needs to be set"
    try:
        if rank == 0:  # serves on all its addresses; whether the given one is among them is seen next
            store = TCPStore("127.0.0.1", port, world_size, True, limit, wait_for_workers=False, multi_tenant=True)
        local = _reach(host, port, limit.total_seconds())
        if rank:
            store = TCPStore(host, port, world_size, False, limit, wait_for_workers=False)
        store.set(f"came/{rank}", "")
    except (OSError, dist.DistError) as error:
        problem = f"{place}: rank {rank} cannot meet the others there ({str(error).splitlines()[0]}): {remedy}"
        if rank and os.environ["LOCAL_RANK"] == "0":  # rank 0 may report another problem
            print(f"error: {problem}", file=sys.stderr, flush=True)
        raise DiptychError(problem) from None
    try:
        store.wait([f"came/{other}" for other in range(world_size)], limit)
    except dist.DistError:
        missing = [other for other in range(world_size) if not store.check([f"came/{other}"])]
        shown = ", ".join(map(str, missing[:8])) + (" ..." if len(missing) > 8 else "")
        raise RuntimeError(f"{place}: rank(s) {shown} did not come within {limit.seconds} s: {remedy}") from None
    _choose_interface(local)
    return store


def _reach(host: str, port: int, seconds: float) -> str:
    """Waits until an address accepts connections; raises the last ``OSError`` after so many seconds.

    Returns:
        This machine's own address on the way there.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with socket.create_connection((host, port), timeout=max(1, deadline - time.monotonic())) as connection:
                return str(connection.getsockname()[0])
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def _choose_interface(address: str) -> None:
    """Makes gloo use the interface that has an address, if the host's name resolves to a loopback address.

    gloo takes the address that the host's name stands for, which on many machines (Debian's 127.0.1.1) is a loopback.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or address.startswith("127."):
        return
    try:
        named = socket.gethostbyname(socket.gethostname())
    except OSError:
        named = "127.0.0.1"
    if named.startswith("127."):
        for interface, addresses in psutil.net_if_addrs().items():
            if any(interface_address.address == address for interface_address in addresses):
                os.environ["GLOO_SOCKET_IFNAME"] = interface
