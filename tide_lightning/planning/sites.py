"""What a site's activations look like, and how much of them each rung of the known part explains."""

from __future__ import annotations

from typing import NamedTuple, get_args

import torch

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.saes import LEAKING, KnownPart, KnownStatistics, Rung, rungs_of
from tide_lightning.tokens import SiteShape, TokenBatch

RUNGS: tuple[Rung, ...] = tuple(rung for rung in get_args(Rung) if rung not in LEAKING)


class SiteFigures(NamedTuple):
    """Of one site's held-out tokens.

    Fields:
        tokens: how many.
        mean: norm of their mean, relative to the scale (both per channel).
        scale: root mean square distance from the mean, per channel.
        explained: share of the variance that each rung explains, fitted on the calibration tokens; None for rungs that
            the source or the site does not allow.
    """

    tokens: int
    mean: float
    scale: float
    explained: dict[Rung, float | None]


@torch.no_grad()
def measure_sites(data: ActivationDataModule, shapes: dict[str, SiteShape]) -> dict[str, SiteFigures]:
    """Fit every rung on the calibration samples and measure it on the validation samples."""
    measures = {site: _Measure(shape) for site, shape in shapes.items()}
    for batch in data.calibration_batches():
        for site, tokens in batch.items():
            measures[site].calibrate(tokens)
    for measure in measures.values():
        measure.fit()
    for batch in data.val_dataloader():
        for site, tokens in batch.items():
            measures[site].update(tokens)
    return {site: measure.figures() for site, measure in measures.items()}


class _Measure:
    """Of one site."""

    def __init__(self, shape: SiteShape) -> None:
        allowed = [rung for rung in rungs_of(shape) if rung in RUNGS]
        self.rungs: dict[Rung, KnownPart] = {rung: KnownPart(shape, rung) for rung in allowed}
        self.statistics: dict[Rung, KnownStatistics] = {
            rung: KnownStatistics(part, scales=False) for rung, part in self.rungs.items()
        }
        self.errors: dict[Rung, float] = dict.fromkeys(allowed, 0.0)
        self.tokens, self.square = 0, 0.0
        self.total = torch.zeros(shape.d_in, dtype=torch.float64)

    def calibrate(self, tokens: TokenBatch) -> None:
        for statistics in self.statistics.values():
            statistics.to(tokens.x.device).update(tokens)

    def fit(self) -> None:
        for rung, statistics in self.statistics.items():
            try:
                statistics.fit()
            except UserError:  # what it learns from, trajectories, this source does not have
                del self.rungs[rung]

    def update(self, tokens: TokenBatch) -> None:
        x = tokens.x.double()
        self.tokens += len(x)
        self.total += x.sum(0).cpu()
        self.square += float(x.square().sum())
        for rung, part in self.rungs.items():
            known = part.to(x.device)(tokens.context)
            self.errors[rung] += float((x - known).square().sum())

    def figures(self) -> SiteFigures:
        mean = self.total / self.tokens
        spread = self.square - float(mean.square().sum()) * self.tokens
        scale = (spread / self.tokens / len(mean)) ** 0.5
        explained = {rung: 1 - self.errors[rung] / spread if rung in self.rungs else None for rung in RUNGS}
        return SiteFigures(self.tokens, float(mean.square().mean().sqrt()) / scale, scale, explained)
