"""Latents as image tokens: patches and their places.

Latents are [N, C, *space]: rows and columns, before them the frames of a video. A grid divides space into T tokens,
first axis first. Shapes: N samples, C channels, P numbers in a patch.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

Grid = tuple[int, ...]


def patches(latents: Tensor, grid: Grid) -> Tensor:
    """Each token's latent patch [N, T, P], channels before pixels."""
    num_samples, channels, *space = latents.shape
    split = [part for size, count in zip(space, grid, strict=True) for part in (count, size // count)]
    places = [2 + 2 * axis for axis in range(len(grid))]
    pixels = [place + 1 for place in places]
    ordered = latents.reshape(num_samples, channels, *split).permute(0, *places, 1, *pixels)
    return ordered.reshape(num_samples, math.prod(grid), -1)


def unpatch(patches_NTP: Tensor, grid: Grid, latent_shape: tuple[int, ...]) -> Tensor:
    """The latents whose `patches` these are."""
    channels, *space = latent_shape
    axes = len(grid)
    sides = [size // count for size, count in zip(space, grid, strict=True)]
    split = patches_NTP.reshape(len(patches_NTP), *grid, channels, *sides)
    paired = [axis for place in range(axes) for axis in (1 + place, 2 + axes + place)]
    return split.permute(0, 1 + axes, *paired).reshape(len(patches_NTP), *latent_shape)


def positions(grid: Grid, device: torch.device | None = None) -> Tensor:
    """Coordinates of each token [T, axes], made on the device."""
    axes = torch.meshgrid(*(torch.arange(size, device=device) for size in grid), indexing="ij")
    return torch.stack([axis.flatten() for axis in axes], dim=1)
