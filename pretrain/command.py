"""How every command ends: a user's mistake is one clear line on rank 0 and exit status 1 on all ranks."""

import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

import torch

from pretrain.errors import DiptychError


def run_command(main: Callable[[Sequence[str]], int]) -> int:
    """Runs ``main(argv)``; prints a :class:`DiptychError` without a traceback.

    Only rank 0 prints: the others stop for the same reason (``Ranks.agree`` sees to that).
    """
    accelerator = torch.accelerator.current_accelerator()
    if accelerator is None or accelerator.type == "mps":  # which knows no float64
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns on every rank that it found none
    try:
        status = main(sys.argv[1:])
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # nobody reads to the end, as in `... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else the interpreter complains at its end
        return 0
    except DiptychError as error:
        if os.environ.get("RANK", "0") == "0":
            print(f"error: {error}", file=sys.stderr, flush=True)
        else:
            # A launcher kills all ranks when the first one fails: leave rank 0 the time to say why. Before the group
            # is formed the ranks may be seconds apart; after that they fail together.
            time.sleep(1 if torch.distributed.is_initialized() else 20)
        return 1
    except KeyboardInterrupt:
        return 130


def exit_rank(status: int) -> NoReturn:
    """Ends a process that has joined a process group.

    gloo's threads outlive the group, and a normal interpreter exit then sometimes aborts (seen with torch 2.13), which
    would turn a finished run into a failed one.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
