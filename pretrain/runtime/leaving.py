"""Leaving long work together, once one rank was told to stop."""

from pretrain.runtime.distributed import Ranks
from pretrain.runtime.preemption import Preempted, preemption


def leave_if_asked(ranks: Ranks) -> None:
    """Ends long work at the same place on all ranks once one of them was told to stop. Collective.

    Raises:
        Preempted: On all ranks.
    """
    if ranks.any(preemption.received is not None):
        raise Preempted("asked to stop; start the run again to go on")
