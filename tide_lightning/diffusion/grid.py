"""Latents as image tokens: patches, their neighbourhoods, their places.

Shapes: N samples, C channels, H x W latent pixels, T tokens (row first), P numbers in a patch, W places in a window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def patches(latents_NCHW: Tensor, patch_size: int) -> Tensor:
    """Each token's latent patch [N, T, P]."""
    return rearrange(latents_NCHW, "n c (rows p1) (cols p2) -> n (rows cols) (c p1 p2)", p1=patch_size, p2=patch_size)


def windows(latents_NCHW: Tensor, patch_size: int, radius: int) -> Tensor:
    """Each token's patch and those around it, zero padded at the border [N, T, W * P]; places row first."""
    side = 2 * radius + 1
    grid = rearrange(latents_NCHW, "n c (rows p1) (cols p2) -> n (c p1 p2) rows cols", p1=patch_size, p2=patch_size)
    unfolded = F.unfold(grid, kernel_size=side, padding=radius)
    return rearrange(unfolded, "n (p w) t -> n t (w p)", w=side * side)


def positions(rows: int, cols: int) -> Tensor:
    """Row and column of each token [T, 2]."""
    return torch.cartesian_prod(torch.arange(rows), torch.arange(cols)).reshape(rows * cols, 2)
