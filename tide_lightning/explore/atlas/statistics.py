"""One site's latents over all samples and times: when they fire, on which images, and where in them.

Shapes: F latents, S samples, N samples of a group, T bins of t, P places of a heat-map, Z entries of a code.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.saes import SparseCode

_MAX_SIDE = 16  # of a heat-map; larger grids are pooled


class _Entries(NamedTuple):
    latent: Tensor
    sample: Tensor
    bin: Tensor
    place: Tensor
    value: Tensor


class SiteStatistics:
    """Takes codes group by group. The grid of a text stream has one axis, and no heat-maps."""

    def __init__(
        self,
        num_latents: int,
        grid: tuple[int, ...],
        num_samples: int,
        num_bins: int,
        num_top: int,
        device: torch.device,
    ) -> None:
        self.map_shape, place_of_token = _heat_map(grid)
        self._place_of_token = place_of_token.to(device)
        self.num_bins, self.num_top = num_bins, min(num_top, num_samples)
        self.tokens = torch.zeros(num_bins, dtype=torch.int64, device=device)
        self.fired = torch.zeros(num_latents, num_bins, dtype=torch.int64, device=device)
        self.sums = torch.zeros(num_latents, num_bins, dtype=torch.float64, device=device)
        self.peaks = torch.zeros(num_latents, num_samples, device=device)
        self.top_peaks = torch.zeros(num_latents, self.num_top, device=device)
        self.top_samples = torch.full((num_latents, self.num_top), -1, device=device)
        places = math.prod(self.map_shape)
        self.maps = torch.zeros(num_latents, self.num_top, num_bins * places, dtype=torch.float16, device=device)
        self._group: list[_Entries] = []

    @property
    def num_latents(self) -> int:
        """Of the dictionary."""
        return len(self.fired)

    @property
    def live(self) -> Tensor:
        """The latents that fired at all, in order."""
        return self.fired.sum(1).nonzero().squeeze(1)

    def add(self, code: SparseCode, t: float) -> None:
        """A look at the present group's samples."""
        tokens_each = len(self._place_of_token)
        at = min(int(t * self.num_bins), self.num_bins - 1)
        fires = code.values.flatten() > 0
        row, latent = code.tokens()[fires], code.indices.flatten()[fires]
        value = code.values.flatten()[fires].float()
        self.tokens[at] += code.num_tokens
        self.fired[:, at].index_add_(0, latent, torch.ones_like(latent))
        self.sums[:, at].index_add_(0, latent, value.double())
        place = self._place_of_token[row % tokens_each]
        self._group.append(_Entries(latent, row // tokens_each, torch.full_like(row, at), place, value))

    def end_group(self, first: int, count: int) -> None:
        """All looks at the samples `first` to `first + count` were added."""
        entries = _Entries(*(torch.cat(part) for part in zip(*self._group, strict=True)))
        self._group = []
        peaks = self.peaks.new_zeros(self.num_latents * count)
        peaks.scatter_reduce_(0, entries.latent * count + entries.sample, entries.value, "amax")
        peaks_FN = peaks.view(self.num_latents, count)
        self.peaks[:, first : first + count] = peaks_FN
        self._keep_highest(entries, peaks_FN, first)

    def _keep_highest(self, entries: _Entries, peaks_FN: Tensor, first: int) -> None:
        """Merge a group into the images kept: old heat-maps move to their new places, new ones are drawn."""
        values, chosen = torch.cat([self.top_peaks, peaks_FN], 1).topk(self.num_top, dim=1)
        is_old = chosen < self.num_top
        old = chosen.where(is_old, 0)
        self.maps = self.maps.gather(1, old[:, :, None].expand_as(self.maps)) * is_old[:, :, None]
        fresh = chosen - self.num_top
        samples = self.top_samples.gather(1, old).where(is_old, fresh + first)
        self.top_peaks, self.top_samples = values, samples.where(values > 0, -1)

        slots = torch.full_like(peaks_FN, -1, dtype=torch.int64)
        latent, slot = (~is_old & (values > 0)).nonzero(as_tuple=True)
        slots[latent, fresh[latent, slot]] = slot
        slot_Z = slots[entries.latent, entries.sample]
        kept = slot_Z >= 0
        places = math.prod(self.map_shape)
        row = (entries.latent[kept] * self.num_top + slot_Z[kept]) * self.num_bins + entries.bin[kept]
        drawn = entries.value[kept].to(self.maps.dtype)
        self.maps.view(-1).scatter_reduce_(0, row * places + entries.place[kept], drawn, "amax")


def _heat_map(grid: tuple[int, ...]) -> tuple[tuple[int, int], Tensor]:
    """The shape of a heat-map and the place of each token in it; frames of a video lie on one another."""
    if len(grid) == 1:
        return (1, 1), torch.zeros(grid[0], dtype=torch.int64)
    rows, columns = grid[-2:]
    factor = math.ceil(max(rows, columns) / _MAX_SIDE)
    shape = math.ceil(rows / factor), math.ceil(columns / factor)
    row = torch.arange(rows)[:, None] // factor
    column = torch.arange(columns)[None] // factor
    return shape, (row * shape[1] + column).flatten().repeat(math.prod(grid[:-2]))
