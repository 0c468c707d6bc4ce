"""What steering changed in an image: as judges read it where its world has judges, and in pixels everywhere."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.explore.run import Run
from tide_lightning.grounds import Ground, Judge, likeliest
from tide_lightning.grounds.photos import PhotoGround
from tide_lightning.grounds.photos.denoiser import SHIPPED
from tide_lightning.grounds.toybox import PIPELINE, Toybox

_GROUNDS: dict[str, type[Toybox] | type[PhotoGround]] = {PIPELINE: Toybox, SHIPPED: PhotoGround}


def difference(before: Tensor, after: Tensor) -> Tensor:
    """How far each pixel moved [H, W], from 0 to 1: the mean over channels of images [3, H, W] in [-1, 1]."""
    return (after.float() - before.float()).abs().mean(0) / 2


class Witness:
    """Sees what differs between two images of a run; where its denoiser is that of a ground, as judges do."""

    def __init__(self, run: Run) -> None:
        kind = _GROUNDS.get(str(run.config.get("data", {}).get("pretrained")))
        self.ground: Ground | None = None if kind is None else kind()
        self.judges: tuple[Judge, ...] = () if self.ground is None else self.ground.judges(str(run.device))

    def compare(self, before: Tensor, after: Tensor, reached_HW: Tensor | None = None) -> Consequences:
        """What an image [3, H, W] in [-1, 1] became; `reached_HW` are the pixels that were meant, all unless given."""
        moved = difference(before, after).cpu()
        outside = None if reached_HW is None or bool(reached_HW.all()) else float(moved[~reached_HW].mean())
        inside = moved if reached_HW is None or not bool(reached_HW.any()) else moved[reached_HW]
        turned, stayed = self._read(before, after)
        return Consequences(turned, stayed, len(self.judges), float(inside.mean()), outside)

    @torch.no_grad()
    def _read(self, before: Tensor, after: Tensor) -> tuple[dict[str, tuple[str, str, bool]], list[str]]:
        if self.ground is None:
            return {}, []
        seen = [likeliest(judge, torch.stack([before, after])) for judge in self.judges]
        turned, stayed = {}, []
        for factor, (values, *_) in self.ground.factors.items():
            read = [tuple(one[factor].tolist()) for one in seen]
            changes = [pair for pair in read if pair[0] != pair[1]]
            if changes:
                one, other = changes[0]
                turned[factor] = values[one], values[other], len(set(read)) == 1
            else:
                stayed.append(factor)
        return turned, stayed


class Consequences(NamedTuple):
    """What differs.

    Fields:
        turned: factors that a judge reads differently: before, after, and whether all judges say the same.
        stayed: factors that every judge reads as before.
        num_judges: how many were asked.
        inside: how far pixels moved where it was meant, as a share of the range from black to white.
        outside: and elsewhere; None where everything was meant.
    """

    turned: dict[str, tuple[str, str, bool]]
    stayed: list[str]
    num_judges: int
    inside: float
    outside: float | None

    def lines(self) -> list[str]:
        """In words: what judges read, and pixels."""
        said = []
        if self.num_judges:
            turned = [
                f"{factor} {before} -> {after}" + ("" if agreed else " (the judges do not agree)")
                for factor, (before, after, agreed) in self.turned.items()
            ]
            kept = f"as before: {', '.join(self.stayed) or 'nothing'}"
            said.append(f"judges read {'; '.join(turned) or 'no change'}; {kept}")
        pixels = f"pixels moved by {self.inside:.1%} of the range"
        where = "" if self.outside is None else f" where it steers, by {self.outside:.1%} elsewhere"
        return [*said, pixels + where]
