"""Sums over ranks, or the value itself where there is one process."""

from __future__ import annotations

import torch.distributed as dist
from torch import Tensor


def is_distributed() -> bool:
    """Whether this process is one of several."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def rank_and_world() -> tuple[int, int]:
    """The number of this process, and how many there are."""
    return (dist.get_rank(), dist.get_world_size()) if is_distributed() else (0, 1)


def all_reduce_sum(tensor: Tensor) -> Tensor:
    """Add `tensor` over all ranks, in place."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def broadcast(tensor: Tensor, source: int = 0) -> Tensor:
    """Replace `tensor` by rank `source`'s, in place."""
    if is_distributed():
        dist.broadcast(tensor, source)
    return tensor
