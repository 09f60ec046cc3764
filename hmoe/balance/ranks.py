"""Sums over the processes of a distributed run."""

import torch.distributed as dist
from torch import Tensor


def num_ranks() -> int:
    """Number of processes of this run, 1 where nothing is distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def over_ranks(value: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient. Every process must call it."""
    if num_ranks() == 1:
        return value
    total = value.detach().clone()
    dist.all_reduce(total)
    return total
