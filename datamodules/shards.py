"""Which part of the world's samples a rank makes. A run's samples are the same for every number of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch.distributed as dist

from tide_lightning.errors import UserError


@dataclass(frozen=True)
class Shard:
    """Rank r of W, which owns every W-th slot."""

    rank: int = 0
    world: int = 1

    def slots(self, num_slots: int, what: str) -> list[int]:
        """The slots owned here of `num_slots`."""
        if num_slots % self.world:
            raise UserError(f"{what} ({num_slots}) must be divisible by the number of ranks ({self.world})")
        return list(range(self.rank, num_slots, self.world))


def gather_objects(value: dict[Any, Any], shard: Shard) -> list[dict[Any, Any]]:
    """Every rank's dictionary, on every rank. All ranks must call it; without a process group, one's own only."""
    if shard.world == 1 or not (dist.is_available() and dist.is_initialized()):
        return [value]
    gathered: list[Any] = [None] * shard.world
    dist.all_gather_object(gathered, value)
    return gathered
