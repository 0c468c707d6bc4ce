"""Which latents are alive: tokens since each last fired, the same on every rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tide_lightning.reduction import all_reduce_sum


class FiringClock(nn.Module):
    """Counts, for each latent, the tokens of all ranks since it last fired (value > 0, not merely selected).

    Counters are int64: a float32 would stop at 2^24, a bfloat16 at 256. Which latents AuxK shall help is looked at
    every `check_every` steps only, since their number must come to the host.

    Args:
        d_sae: latents.
        dead_after_tokens: without firing for this many tokens a latent is dead.
        check_every: steps between looks.
    """

    since_fired: Tensor
    seen_dead: Tensor

    def __init__(self, d_sae: int, dead_after_tokens: int, check_every: int = 25) -> None:
        super().__init__()
        self.dead_after_tokens, self.check_every = dead_after_tokens, check_every
        self.register_buffer("since_fired", torch.zeros(d_sae, dtype=torch.int64))
        self.register_buffer("seen_dead", torch.zeros(d_sae, dtype=torch.bool))
        self._dead_latents: Tensor | None = None

    @torch.no_grad()
    def tick(self, fired: Tensor, num_tokens: int) -> Tensor:
        """Account for one step: `fired` [d_sae] and `num_tokens` are this rank's; the tokens of all ranks."""
        counts = torch.cat([fired.long(), fired.new_full((1,), num_tokens, dtype=torch.int64)])
        all_reduce_sum(counts)
        self.since_fired.copy_(torch.where(counts[:-1] > 0, 0, self.since_fired + counts[-1]))
        return counts[-1]

    @torch.no_grad()
    def look(self, step: int) -> None:
        """See which latents are dead, every so many steps; belongs after each step's tick."""
        if step % self.check_every == 0:
            self.seen_dead.copy_(self.dead())
            self._dead_latents = None

    def dead(self) -> Tensor:
        """Boolean [d_sae]."""
        return self.since_fired >= self.dead_after_tokens

    def dead_latents(self) -> Tensor | None:
        """Which latents were dead at the last look and were not revived since, int64, in order; None if none."""
        if self._dead_latents is None:
            self._dead_latents = self.seen_dead.nonzero().squeeze(1)
        return self._dead_latents if len(self._dead_latents) else None

    def revive(self, latents: Tensor) -> None:
        """Start the clock of `latents` (indices) anew."""
        self.since_fired[latents] = 0
        self.seen_dead[latents] = False
        self._dead_latents = None
