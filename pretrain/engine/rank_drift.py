"""Whether copies that should be equal on all ranks still are.

Hashes of every buffer and of every parameter that each rank holds whole are compared. What that can detect:

- ZeRO 0: everything. Each rank updates its own copy, so a flipped bit, or a reduction that gave the ranks different
  sums, stays and grows.
- ZeRO 1 and 2: every step replaces the copies by what the owning rank has computed. A copy that differs was corrupted
  since then, or in that transfer. Frozen parameters are never replaced; for them it is as under ZeRO 0.
- ZeRO 3: only parameters that DeepSpeed keeps gathered on all ranks (small ones: biases, norms), as under ZeRO 1.

Corruption of optimizer state that only one rank holds is not detected: there is nothing to compare it with.
"""

import hashlib
import socket
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pretrain.engine.state import is_replicated
from pretrain.runtime.distributed import Ranks
from pretrain.runtime.errors import DiptychError

_CHUNK = 2**22
_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def compare_ranks(engine: Any, ranks: Ranks) -> None:
    """Compares parameters and buffers over the ranks, bit by bit as hashes. Collective, between two steps.

    One small gather; a second one only if the ranks differ.

    Raises:
        DiptychError: On all ranks; names the ranks that differ, their machines and the first tensor.
    """
    if ranks.world_size == 1:
        return
    hashes = {name: hash_bits(tensor).to(engine.device) for name, tensor in _alike(engine)}
    names = list(hashes)
    values = torch.stack(list(hashes.values())).tolist() if hashes else []
    total = hashlib.sha256(repr((names, values)).encode()).hexdigest()
    totals = ranks.gather((total, socket.gethostname()))
    if len({total for total, _ in totals}) == 1:
        return
    of_ranks = ranks.gather(dict(zip(names, values, strict=True)))
    for name in {name: None for hashes_of_rank in of_ranks for name in hashes_of_rank}:
        on_ranks = [hashes_of_rank.get(name) for hashes_of_rank in of_ranks]
        if len(set(on_ranks)) > 1:
            usual, count = Counter(on_ranks).most_common(1)[0]
            majority = count > ranks.world_size / 2
            odd = [rank for rank, value in enumerate(on_ranks) if value != usual or not majority]
            who = ", ".join(f"rank {rank} on {totals[rank][1]}" for rank in odd)
            than = "the other ranks" if majority else "each other"
            raise DiptychError(
                f"{name}: {who} {'holds' if len(odd) == 1 else 'hold'} other values than {than}: memory or a transfer "
                "was corrupted. Resume from the last checkpoint, without that machine if it happens again"
            )


def hash_bits(tensor: Tensor) -> Tensor:
    """A hash of a tensor's bits, 64 bits as a 0-d int64 tensor on its device; the same on every kind of device.

    The sum of the elements' bits times odd numbers that depend on their position, modulo 2**64: one wrong element
    always changes it. Memory: a few times 32 MB for any size of the tensor.
    """
    bits = tensor.detach().contiguous().view(-1).view(_INTEGERS[tensor.element_size()])
    total = torch.zeros((), dtype=torch.int64, device=bits.device)
    for number, chunk in enumerate(torch.split(bits, _CHUNK)):
        position = torch.arange(len(chunk), device=bits.device) + number * _CHUNK
        position = (position * -7046029254386353131) ^ (position >> 7)  # spreads neighbours over all bits
        total += (chunk.long() * (2 * position + 1)).sum()
    return total


def _alike(engine: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors that should be equal on all ranks, by name."""
    for name, parameter in engine.module.named_parameters():
        if is_replicated(parameter):
            yield name.removeprefix("lm."), parameter
    for name, buffer in engine.module.named_buffers():
        yield name.removeprefix("lm."), buffer
