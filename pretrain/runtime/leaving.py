"""Leaving long work on all ranks together, once one rank was asked to stop."""

from pretrain.runtime.distributed import Ranks
from pretrain.runtime.preemption import Preempted, preemption


def leave_if_asked(ranks: Ranks) -> None:
    """Ends long work at the same point on all ranks if one of them was asked to stop. Collective.

    Raises:
        Preempted: On all ranks.
    """
    if ranks.any(preemption.received is not None):
        raise Preempted("asked to stop; start the run again to go on")
