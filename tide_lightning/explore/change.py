"""What steering changed, and how much of it outside the region that was meant."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from tide_lightning.intervene.region import Region


class Change(NamedTuple):
    """How far pixels moved, as a share of the range from black to white.

    Fields:
        inside: mean over the region's pixels; over all where there is none.
        outside: mean over the others; None where there is none.
    """

    inside: float
    outside: float | None


def difference(before: Tensor, after: Tensor) -> Tensor:
    """How far each pixel moved [H, W], from 0 to 1: the mean over channels of images [3, H, W] in [-1, 1]."""
    return (after.float() - before.float()).abs().mean(0) / 2


def change(before: Tensor, after: Tensor, region: Region | None) -> Change:
    """What changed inside and outside of a region."""
    moved = difference(before, after)
    if region is None:
        return Change(float(moved.mean()), None)
    inside = region.pixels(*moved.shape[-2:]).to(moved.device)
    return Change(float(moved[inside].mean()), float(moved[~inside].mean()) if not inside.all() else None)
