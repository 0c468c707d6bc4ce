"""Which latent of one dictionary is which of another: by the directions they write, and by firing together.

Shapes: F and G latents of the two dictionaries, D channels, Z entries of a sparse code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.intervene.amounts import effects
from tide_lightning.saes import SAE

_ROWS = 2048  # of the matrix of cosines that is looked at in one piece


@torch.no_grad()
def directions(sae: SAE) -> Tensor:
    """The direction that each latent adds to an activation, of unit length [F, D]."""
    return torch.nn.functional.normalize(effects(sae), dim=1)


class Best(NamedTuple):
    """For each latent its best partner in the other dictionary, and how well they match [F]."""

    score: Tensor
    partner: Tensor


def best_by_direction(a_FD: Tensor, b_GD: Tensor) -> Best:
    """The partner of the highest cosine."""
    parts = [(rows @ b_GD.mT).max(1) for rows in a_FD.split(_ROWS)]
    return Best(torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts]))


def random_like(directions_FD: Tensor, seed: int = 0) -> Tensor:
    """As many random directions of unit length: what matches by chance."""
    draw = torch.randn(directions_FD.shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(draw, dim=1).to(directions_FD)


class Firings(NamedTuple):
    """Which latents fired on which tokens, at positive values.

    Fields:
        token: int64 [Z], ascending.
        latent: int64 [Z].
        num_latents: F.
    """

    token: Tensor
    latent: Tensor
    num_latents: int

    def counts(self) -> Tensor:
        """On how many tokens each latent fired [F]."""
        return torch.bincount(self.latent, minlength=self.num_latents)

    def on(self, chosen: Tensor) -> Firings:
        """Some of the entries."""
        return self._replace(token=self.token[chosen], latent=self.latent[chosen])

    def both(self, other: Firings) -> Tensor:
        """On how many tokens a latent fired here and there, of one dictionary [F]."""
        mine, theirs = (part.token * part.num_latents + part.latent for part in (self, other))
        return torch.bincount(self.latent[torch.isin(mine, theirs)], minlength=self.num_latents)


def best_by_firing(a: Firings, b: Firings) -> Best:
    """The partner of the highest Jaccard index: tokens on which both fired, over those on which either did."""
    first = torch.searchsorted(b.token, a.token)
    length = torch.searchsorted(b.token, a.token, right=True) - first
    start = length.cumsum(0) - length
    entry = torch.arange(int(length.sum())) - (start - first).repeat_interleave(length)  # of b, for each pair
    pair = a.latent.repeat_interleave(length) * b.num_latents + b.latent[entry]
    pairs, together = pair.unique(return_counts=True)
    mine, theirs = pairs // b.num_latents, pairs % b.num_latents
    jaccard = together / (a.counts()[mine] + b.counts()[theirs] - together)
    score = torch.zeros(a.num_latents).scatter_reduce(0, mine, jaccard, "amax")
    best = jaccard == score[mine]
    partner = torch.full((a.num_latents,), -1).scatter_reduce(0, mine[best], theirs[best], "amax")
    return Best(score, partner)
