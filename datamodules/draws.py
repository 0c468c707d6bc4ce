"""What a stream draws, by counters: every draw is keyed by (seed, purpose, slot, number), never by what came before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tide_lightning.datamodules.harvest import Places
from tide_lightning.datamodules.shards import Shard
from tide_lightning.diffusion import Layout
from tide_lightning.diffusion.counters import stream


class Walk(NamedTuple):
    """How trajectories go from noise to image.

    Fields:
        num_inference_steps: length of the schedule.
        guidance_scale: of the denoiser's kind of guidance.
    """

    num_inference_steps: int
    guidance_scale: float


@dataclass(frozen=True)
class Draw:
    """Which samples a stream draws, and how many tokens of each.

    Args:
        seed: of everything drawn.
        purpose: keeps training, calibration and others apart.
        num_slots: S; of the whole world.
        shard: this rank's share of the slots.
        num_kept: tokens kept of each sample in every layout.
        num_samples: samples of a batch, of all sources and the whole world; S unless given.
        first_slot: number of the first slot among these samples.
    """

    seed: int
    purpose: str
    num_slots: int
    shard: Shard
    num_kept: Mapping[Layout, int]
    num_samples: int | None = None
    first_slot: int = 0

    def slots(self, what: str = "samples_per_batch") -> list[int]:
        """The slots filled here; `what` names their number in an error."""
        return self.shard.slots(self.num_slots, what)

    def rng(self, *key: int | str) -> np.random.Generator:
        """The random stream of a key."""
        return stream(self.seed, self.purpose, *key)

    def sample(self, slot: Tensor, number: Tensor | int) -> Tensor:
        """What the `number`-th samples of slots are called: unique over a run, whoever makes them."""
        return number * (self.num_samples or self.num_slots) + self.first_slot + slot

    def places(self, rngs: list[np.random.Generator], device: torch.device) -> Places:
        """The tokens kept of each sample, at random without replacement, in grid order."""

        def drawn(num_tokens: int, num_kept: int) -> Tensor:
            if num_kept == num_tokens:
                return torch.arange(num_tokens).repeat(len(rngs), 1)
            return torch.stack([torch.from_numpy(np.sort(rng.permutation(num_tokens)[:num_kept])) for rng in rngs])

        return {layout: drawn(layout.num_tokens, kept).to(device) for layout, kept in self.num_kept.items()}


class Deck:
    """Numbers 0 .. count - 1 in shuffled passes: the n-th card is a pure function of (seed, purpose, n)."""

    def __init__(self, count: int, seed: int, purpose: str) -> None:
        self._count = count

        @lru_cache(maxsize=2)  # neighbouring draws straddle two passes at most
        def shuffled(turn: int) -> np.ndarray[Any, np.dtype[np.int64]]:
            return stream(seed, purpose, "deck", turn).permutation(count)

        self._shuffled = shuffled

    def __getitem__(self, n: int) -> int:
        turn, place = divmod(n, self._count)
        return int(self._shuffled(turn)[place])
