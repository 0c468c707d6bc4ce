"""Quantities known at the centres of equal bins of t, and linear in t between them."""

from __future__ import annotations

import torch
from torch import Tensor


def centres(num_bins: int) -> Tensor:
    """The times in the middle of each bin [num_bins], float64."""
    return (torch.arange(num_bins, dtype=torch.float64) + 0.5) / num_bins


def between_bins(t: Tensor, num_bins: int) -> tuple[Tensor, Tensor]:
    """The bin whose centre lies below t, int64, and how far t is towards the next one's."""
    place = (t * num_bins - 0.5).clamp(0, num_bins - 1)
    low = place.floor()
    return low.long(), place - low


def at_time(curve: Tensor, t: Tensor) -> Tensor:
    """The values of a curve [bins] at times t [B]."""
    low_B, mix_B = between_bins(t.to(curve.dtype), len(curve))
    return torch.lerp(curve[low_B], curve[(low_B + 1).clamp(max=len(curve) - 1)], mix_B)
