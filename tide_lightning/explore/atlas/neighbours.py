"""Which latents are near one another: by where their decoder rows point, and by firing at the same tokens.

Shapes: F latents, N tokens, Z entries.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.saes import SparseCode

_BLOCK = 512  # latents at a time


class Nearest(NamedTuple):
    """The latents nearest to each of some.

    Fields:
        latents: [F, num]; -1 where there is none.
        values: cosine, or the share of tokens at which both fire among those at which either does [F, num].
    """

    latents: Tensor
    values: Tensor


class FiringSample:
    """Which latents fired at some share of all looks' tokens: the same ones at all sites of a layout."""

    def __init__(self, num_latents: int, share: float, device: torch.device) -> None:
        self._num_latents, self._share, self._device = num_latents, share, device
        self._token: list[Tensor] = []
        self._latent: list[Tensor] = []
        self.num_tokens = 0
        self._looks = 0

    def add(self, code: SparseCode) -> None:
        """Keep a few tokens of a look; which ones hangs on its number alone."""
        generator = torch.Generator().manual_seed(self._looks)
        self._looks += 1
        kept = (torch.rand(code.num_tokens, generator=generator) < self._share).to(self._device)
        token = kept.cumsum(0) - 1 + self.num_tokens
        row = code.tokens()
        chosen = kept[row] & (code.values.flatten() > 0)
        self._token.append(token[row[chosen]])
        self._latent.append(code.indices.flatten()[chosen])
        self.num_tokens += int(kept.sum())

    def counts(self) -> Tensor:
        """At how many of the tokens each latent fires [F]."""
        return torch.cat(self._latent).bincount(minlength=self._num_latents)

    def incidence(self, latents: Tensor) -> Tensor:
        """Which tokens some latents fire at [N, number of latents], float32."""
        column = torch.full((self._num_latents,), -1, device=self._device)
        column[latents] = torch.arange(len(latents), device=self._device)
        token, at = torch.cat(self._token), column[torch.cat(self._latent)]
        dense = torch.zeros(self.num_tokens, len(latents), device=self._device)
        dense[token[at >= 0], at[at >= 0]] = 1
        return dense

    def transposed(self) -> Tensor:
        """Sparse [F, N]: 1 where a latent fires."""
        token, latent = torch.cat(self._token), torch.cat(self._latent)
        ones = torch.ones(len(token), device=self._device)
        size = self._num_latents, self.num_tokens
        return torch.sparse_coo_tensor(torch.stack([latent, token]), ones, size, check_invariants=False)


@torch.no_grad()
def by_direction(directions_FD: Tensor, among: Tensor, num: int) -> Nearest:
    """The latents whose decoder rows point the same way, among some."""
    rows = torch.nn.functional.normalize(directions_FD[among].float(), dim=1)
    parts = []
    for start in range(0, len(rows), _BLOCK):
        cosines = rows[start : start + _BLOCK] @ rows.T
        own = torch.arange(len(cosines), device=rows.device)
        cosines[own, start + own] = -torch.inf
        parts.append(_highest(cosines, among, num))
    return _joined(parts, num, rows.device)


@torch.no_grad()
def by_firing(own: FiringSample, among: Tensor, other: FiringSample, num: int) -> Nearest:
    """The latents of `other` (which may be the same) that fire at the same tokens as each of some latents of `own`."""
    parts, transposed, counts = [], other.transposed(), other.counts().float()
    own_counts = own.counts().float()
    everything = torch.arange(len(counts), device=counts.device)
    for latents in among.split(_BLOCK):
        both = torch.sparse.mm(transposed, own.incidence(latents)).T
        shares = both / (own_counts[latents][:, None] + counts[None] - both).clamp(min=1)
        if own is other:
            shares[torch.arange(len(latents), device=shares.device), latents] = 0
        parts.append(_highest(shares, everything, num))
    return _joined(parts, num, counts.device)


def _highest(values: Tensor, names: Tensor, num: int) -> Nearest:
    found, place = values.topk(min(num, values.shape[1]), dim=1)
    return Nearest(names[place].where(found > 0, -1), found.clamp(min=0))


def _joined(parts: Sequence[Nearest], num: int, device: torch.device) -> Nearest:
    if not parts:
        none = torch.zeros(0, num, device=device)
        return Nearest(none.long(), none)
    return Nearest(torch.cat([part.latents for part in parts]), torch.cat([part.values for part in parts]))
