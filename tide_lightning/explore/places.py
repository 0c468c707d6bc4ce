"""Where in the image a latent fires.

Shapes: N samples, T tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import interpolate, max_pool2d

from tide_lightning.intervene.edits import Edit
from tide_lightning.intervene.recording import Forward
from tide_lightning.intervene.region import Region
from tide_lightning.saes import SAE

_LEAST_SHARE = 0.1  # of where it fires most, from which on a place counts


class Activity:
    """How strongly some latents fire at each token, in the mean over a walk's forwards; `take` is for `recorded`."""

    def __init__(self, saes: Mapping[str, SAE], latents: Iterable[tuple[str, int]]) -> None:
        wanted: dict[str, list[int]] = {}
        for site, latent in dict.fromkeys(latents):
            wanted.setdefault(site, []).append(latent)
        self.saes = {site: saes[site] for site in wanted}
        self._latents = {site: torch.tensor(some) for site, some in wanted.items()}
        self._maps: dict[str, list[Tensor]] = {site: [] for site in wanted}

    def take(self, forward: Forward) -> None:
        """Look at a forward."""
        for site, latents in self._latents.items():
            dense = forward.code(site, self.saes[site]).to_dense()[:, latents.to(forward.t.device)]
            self._maps[site].append(dense.float().unflatten(0, (len(forward.x_t), -1)).cpu())

    def maps(self) -> dict[tuple[str, int], Tensor]:
        """Of each latent [N, T]."""
        found: dict[tuple[str, int], Tensor] = {}
        for site, latents in self._latents.items():
            mean_NTK = torch.stack(self._maps[site]).mean(0)
            found |= {(site, latent): mean_NTK[..., place] for place, latent in enumerate(latents.tolist())}
        return found


def where_it_fires(map_T: Tensor, grid: Sequence[int]) -> Tensor | None:
    """The places where a latent fires, and those beside them [T]; None where it fires nowhere."""
    if not bool(map_T.max() > 0):
        return None
    inside = map_T >= _LEAST_SHARE * map_T.max()
    if len(grid) < 2:
        return inside
    widened = max_pool2d(inside.float().reshape(-1, 1, *grid[-2:]), 3, stride=1, padding=1)
    return widened.flatten() > 0


def meant(edits: Sequence[Edit], saes: Mapping[str, SAE], image: Tensor) -> Tensor:
    """The pixels [H, W] of an image [3, H, W] that edits are to reach; all of them where there is no edit."""
    size = image.shape[-2], image.shape[-1]
    parts = [_pixels_of(edit.region, saes[edit.site].shape.grid, size) for edit in edits]
    return torch.stack(parts).any(0) if parts else torch.ones(size, dtype=torch.bool)


def _pixels_of(region: Region | Tensor | None, grid: Sequence[int], size: tuple[int, int]) -> Tensor:
    """The pixels of a part of the image; all of them where tokens lie nowhere in it."""
    if isinstance(region, Region):
        return region.pixels(*size)
    if region is None or len(grid) < 2:
        return torch.ones(size, dtype=torch.bool)
    tokens = region.reshape(-1, 1, *grid[-2:]).any(0, keepdim=True)
    return interpolate(tokens.float(), size, mode="nearest")[0, 0] > 0
