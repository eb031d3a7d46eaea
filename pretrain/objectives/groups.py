"""Which pairs a distance may compare with each other, on this rank and on the others."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class PairGroups:
    """Groups of pairs, fixed by the packing plan.

    Attributes:
        groups: Group of each of this rank's pairs, shape [P].
        temperature: Temperature of a softmax over the group.
        capacity: Most pairs on any rank, the same number on all ranks.
        world_size: Ranks that a group may be spread over; 1: every group lies on one rank.
        rank: This rank.
    """

    groups: Tensor
    temperature: float
    capacity: int
    world_size: int = 1
    rank: int = 0

    def candidates(self, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The targets that each pair may be compared with. Collective if ``world_size`` > 1.

        Args:
            target: This rank's targets, shape [P, width].

        Returns:
            Targets of all ranks, shape [C, width]; whether pair p and target c share a group, shape [P, C]; the
            number of each pair's target among them, shape [P].
        """
        number = torch.arange(len(target), device=target.device)
        if self.world_size == 1:
            return target, self.groups[:, None] == self.groups[None, :], number
        missing = self.capacity - len(target)
        padded = torch.cat([target, target.new_zeros(missing, target.shape[1])])
        groups = torch.cat([self.groups, self.groups.new_full((missing,), -1)])
        all_groups = [torch.empty_like(groups) for _ in range(self.world_size)]
        dist.all_gather(all_groups, groups)
        targets: Tensor = _AllGather.apply(  # type: ignore[no-untyped-call]
            padded, self.world_size, self.rank
        )
        return targets, self.groups[:, None] == torch.cat(all_groups)[None, :], number + self.rank * self.capacity


class _AllGather(torch.autograd.Function):
    """Concatenates the ranks' tensors; the gradient of this rank's part is summed over all ranks."""

    @staticmethod
    def forward(context: Any, local: Tensor, world_size: int, rank: int) -> Tensor:
        context.world_size, context.rank = world_size, rank
        parts = [torch.empty_like(local) for _ in range(world_size)]
        dist.all_gather(parts, local.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        gradient = gradients[0].contiguous()
        dist.all_reduce(gradient)
        return gradient.chunk(context.world_size)[context.rank], None, None
