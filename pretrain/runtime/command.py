"""How every command ends: its exit status.

====== ===========================================================================================================
status meaning
====== ===========================================================================================================
0      finished
1      a user's mistake, or an error that a restart does not fix: one clear line on rank 0
70     an unexpected exception, or another rank was lost
85     asked to stop; start the command again to resume
86     no progress for too long (``watchdog.py``)
130    Ctrl-C
141    the reader of the output has closed it; a run may be unfinished
====== ===========================================================================================================

A signal that comes before :func:`run_command` listens ends the process with the signal's own status. So this module,
and a program that calls it, import before that only what takes a few milliseconds.
"""

import os
import sys
import time
from collections.abc import Callable, Sequence

from pretrain.runtime.preemption import REQUEUE, Preempted, preemption

CRASHED, HUNG, UNREAD = 70, 86, 141
BEFORE_TRAINING = "before training began; start it again to go on"
"""End of the message of a run that is stopped before it trains."""


def run_command(main: Callable[[Sequence[str]], int], words: str = preemption.words) -> int:
    """Runs ``main(argv)``; prints a :class:`DiptychError` without a traceback.

    Signals that ask to stop are handled before anything else, because ``main`` imports what takes long. Only rank 0
    prints; the others stop for the same reason (see ``Ranks.agree``). The status also goes to the file
    $DIPTYCH_STATUS_FILE, if that exists, because a launcher may hide it (``launch/launch.sh``).

    Args:
        main: The command.
        words: End of the message of a run that is stopped before it trains.
    """
    preemption.words = words
    preemption.listen()
    status = _status_of(main)
    preemption.decided(status)
    path = os.environ.get("DIPTYCH_STATUS_FILE", "")
    if _is_main() and os.path.isfile(path):
        with open(path, "w", encoding="utf-8") as file:
            file.write(str(status))
    return status


def _status_of(main: Callable[[Sequence[str]], int]) -> int:
    import re
    import traceback

    from pretrain.runtime.errors import DiptychError
    from pretrain.runtime.process_guard import guard_process
    from pretrain.runtime.tested_versions import check_versions

    try:
        with preemption.raised():
            guard_process()
            notes = check_versions()
            for note in notes if _is_main() else ():
                print(f"note: {note}", file=sys.stderr, flush=True)
            try:
                status = main(sys.argv[1:])
            except SystemExit as end:  # of --help
                status = int(end.code or 0)
            sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has closed the pipe, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return UNREAD
    except DiptychError as error:
        if _is_main():
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            # A launcher kills all ranks when the first one fails: give rank 0 time to say why. Before the group
            # is formed the ranks may be seconds apart; after that they fail together.
            preemption.decided(1)  # the launcher begins with TERM
            time.sleep(1 if _group_is_formed() else 20)
        return 1
    except Preempted as stop:
        if _is_main():
            print(stop, file=sys.stderr, flush=True)
        return REQUEUE
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        lost = _group_is_formed() and re.search(_LOST, str(error))
        if lost and preemption.received and not preemption.together:
            return REQUEUE  # before a run trains: another rank obeyed the same signal first
        traceback.print_exc()
        if lost:
            rank = os.environ.get("RANK", "0")
            print(f"error: rank {rank}: another rank was lost: its own output says why", file=sys.stderr, flush=True)
        return CRASHED


def _group_is_formed() -> bool:
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and bool(distributed.is_initialized())


def _is_main() -> bool:
    """Whether this is rank 0, also before the process group exists."""
    return os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0")) == "0"


_LOST = r"[Cc]onnection (closed|reset)|[Bb]roken pipe|[Tt]imed out|NCCL|ProcessGroup"


def exit_rank(status: int) -> None:
    """Ends a process that has joined a process group.

    gloo's threads outlive the group, and a normal interpreter exit then sometimes aborts (seen with torch 2.13), which
    would turn a finished run into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
