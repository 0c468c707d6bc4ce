"""Which latents are alive: tokens since each last fired, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tide_lightning.reduction import all_reduce_sum


class FiringClock(nn.Module):
    """Counts, for each latent, the tokens of all ranks since it last fired (value > 0, not merely selected).

    Counters are int64: a float32 would stop at 2^24, a bfloat16 at 256. Whether any latent is dead is looked at every
    `check_every` steps only, since the answer must come to the host.

    Args:
        d_sae: latents.
        dead_after_tokens: without firing for this many tokens a latent is dead.
        check_every: steps between looks.
    """

    since_fired: Tensor
    num_dead: Tensor

    def __init__(self, d_sae: int, dead_after_tokens: int, check_every: int = 25) -> None:
        super().__init__()
        self.dead_after_tokens, self.check_every = dead_after_tokens, check_every
        self.register_buffer("since_fired", torch.zeros(d_sae, dtype=torch.int64))
        self.register_buffer("num_dead", torch.zeros((), dtype=torch.int64))
        self._any_dead: bool | None = None

    @torch.no_grad()
    def tick(self, fired: Tensor, num_tokens: int, step: int) -> Tensor:
        """Account for one step: `fired` [d_sae] and `num_tokens` are this rank's; the tokens of all ranks."""
        counts = torch.cat([fired.long(), fired.new_tensor([num_tokens], dtype=torch.int64)])
        all_reduce_sum(counts)
        self.since_fired.copy_(torch.where(counts[:-1] > 0, 0, self.since_fired + counts[-1]))
        if step % self.check_every == 0:
            self.num_dead.copy_(self.dead().sum())
            self._any_dead = None
        return counts[-1]

    def dead(self) -> Tensor:
        """Boolean [d_sae]."""
        return self.since_fired >= self.dead_after_tokens

    def dead_or_none(self) -> Tensor | None:
        """The dead latents, or None if there were none at the last look."""
        if self._any_dead is None:
            self._any_dead = bool(self.num_dead > 0)
        return self.dead() if self._any_dead else None

    def revive(self, latents: Tensor) -> None:
        """Start the clock of `latents` (indices) anew."""
        self.since_fired[latents] = 0
