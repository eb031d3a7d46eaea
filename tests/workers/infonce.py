"""What the ranks of test_objectives.py run: `workers/infonce.py FOLDER`, InfoNCE over groups that span the ranks."""

import sys
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from pretrain.config.sections import ObjectiveConfig
from pretrain.data.batch import Batch
from pretrain.objectives.mixed import MixedObjective

WIDTH = 6
GROUPS = {
    "even": ([0, 0, 1], [0, 1, 1]),
    "uneven": ([0, 1, 0, 0], [1]),
    "none on rank 1": ([0, 0, 1], []),
    "one group": ([0], [0, 0]),
}
COUNTS = {case: tuple(len(groups) for groups in ranks) for case, ranks in GROUPS.items()}


def draw(case: str, rank: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(list(GROUPS).index(case) * 10 + rank)
    count = len(GROUPS[case][rank])
    return torch.randn(count, WIDTH, generator=generator), torch.randn(count, WIDTH, generator=generator)


def objective_gradients(
    pairs: list[Tensor], groups: list[int], capacity: int, stop_gradient: bool, rank: int, world_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Distances of these pairs, and gradients of their sum over all ranks in predictions and targets."""
    count = len(groups)
    states = torch.cat(list(pairs)).requires_grad_()
    places = torch.arange(2 * count).reshape(2, count, 1) + torch.tensor([0, 1])
    none = torch.zeros(0, dtype=torch.int64)
    numbers = torch.tensor(groups, dtype=torch.int64)
    batch = Batch(none, none, none, none, none, none, places[0], *places, numbers, 0, capacity, 0, 0, none)
    config = ObjectiveConfig(distance="infonce", group_rows=2, stop_gradient=stop_gradient, temperature=0.3)
    values = MixedObjective(config, rank, world_size).distances(states, batch)
    (values.sum() + 0 * states.sum()).backward()
    assert states.grad is not None
    return values.detach(), states.grad[:count], states.grad[count:]


def main(folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    rank = dist.get_rank()
    for case, counts in COUNTS.items():
        for stop_gradient in (False, True):
            found = objective_gradients(
                list(draw(case, rank)), GROUPS[case][rank], max(counts), stop_gradient, rank, dist.get_world_size()
            )
            torch.save([tensor.clone() for tensor in found], folder / f"{case}-{stop_gradient}-{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
