"""How every command ends.

====== ===========================================================================================================
status meaning
====== ===========================================================================================================
0      finished
1      a user's mistake, or what a restart does not mend: one clear line on rank 0
70     an unexpected exception, or another rank was lost
85     asked to stop; start again to go on
86     no progress for too long (``watchdog.py``)
130    Ctrl-C
141    nobody reads what is printed; a run may be unfinished
====== ===========================================================================================================
"""

import os
import re
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch

from pretrain.errors import DiptychError
from pretrain.preemption import Preempted
from pretrain.process_guard import guard_process
from pretrain.tested_versions import check_versions

CRASHED, REQUEUE, HUNG, UNREAD = 70, 85, 86, 141


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Runs ``main(argv)``; prints a :class:`DiptychError` without a traceback.

    Only rank 0 prints: the others stop for the same reason (``Ranks.agree`` sees to that). It also writes the status to
    the file $DIPTYCH_STATUS_FILE, if there is one: a launcher may hide it (``launch/launch.sh``).
    """
    status = _status_of(main)
    path = Path(os.environ.get("DIPTYCH_STATUS_FILE", ""))
    if _is_main() and path.is_file():
        path.write_text(str(status))
    return status


def _status_of(main: Callable[[Sequence[str]], int]) -> int:
    guard_process()
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type == "mps":  # which knows no float64
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns on every rank that it found none
    try:
        notes = check_versions()
        for note in notes if _is_main() else ():
            print(f"note: {note}", file=sys.stderr, flush=True)
        status = main(sys.argv[1:])
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # nobody reads to the end, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return UNREAD
    except DiptychError as error:
        if _is_main():
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            # A launcher kills all ranks when the first one fails: leave rank 0 the time to say why. Before the group
            # is formed the ranks may be seconds apart; after that they fail together.
            time.sleep(1 if torch.distributed.is_initialized() else 20)
        return 1
    except Preempted as stop:
        if _is_main():
            print(stop, file=sys.stderr, flush=True)
        return REQUEUE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        traceback.print_exc()
        if torch.distributed.is_initialized() and _LOST.search(str(error)):
            rank = torch.distributed.get_rank()
            print(f"error: rank {rank}: another rank was lost: its own output says why", file=sys.stderr, flush=True)
        return CRASHED


def _is_main() -> bool:
    """Rank 0, also before the ranks have met."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


_LOST = re.compile(r"[Cc]onnection (closed|reset)|[Bb]roken pipe|[Tt]imed out|NCCL|ProcessGroup")


def exit_rank(status: int) -> NoReturn:
    """Ends a process that has joined a process group.

    gloo's threads outlive the group, and a normal interpreter exit then sometimes aborts (seen with torch 2.13), which
    would turn a finished run into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
