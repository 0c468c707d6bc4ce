"""Floors: what cheaper predictors than the SAE explain of the same held-out tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.evaluation.figures import bin_edges, measured
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE, KnownPart, KnownStatistics, Rung, SAEOutput
from tide_lightning.tokens import TokenBatch, bin_of
from tide_lightning.training.metrics import quotient

LADDER: tuple[Rung, ...] = ("mean", "mean_t", "mean_t_position")
"""Rungs that are fitted anew on the calibration tokens."""

FLOORS = (*LADDER, "known", "pca_k", "pca_2k")
"""All floors, as they stand in metrics.json."""


class SiteFloors(nn.Module):
    """One site's floors: fitted on calibration tokens, measured on held-out tokens.

    Args:
        sae: the site's SAE; its k sets the number of principal components, its known part is a floor itself.
        num_bins: equal bins of t in [0, 1] for the figures.
        num_known_bins: bins of t in which the ladder's means are estimated.
    """

    num_calibration: Tensor
    sum_x: Tensor
    sum_xx: Tensor
    components: Tensor
    tokens: Tensor
    sums: Tensor
    square: Tensor
    errors: Tensor

    def __init__(self, sae: SAE, num_bins: int, num_known_bins: int = 20) -> None:
        super().__init__()
        d = sae.d_in
        self.num_bins = num_bins
        self.num_components = {"pca_k": min(sae.k, d), "pca_2k": min(2 * sae.k, d)}
        self.ladder = nn.ModuleDict({rung: KnownPart(sae.shape, rung, num_known_bins) for rung in LADDER})
        self.statistics = nn.ModuleDict({rung: KnownStatistics(self.rung(rung), scales=False) for rung in LADDER})
        sizes = {
            "num_calibration": (),
            "sum_x": (d,),
            "sum_xx": (d, d),
            "components": (d, self.num_components["pca_2k"]),
            "tokens": (num_bins,),
            "sums": (num_bins, d),
            "square": (num_bins,),
            "errors": (len(FLOORS), num_bins),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @property
    def mean(self) -> Tensor:
        """The calibration tokens' mean [D]; after `fit`."""
        return self.sum_x / self.num_calibration

    def rung(self, name: str) -> KnownPart:
        """A part of the ladder."""
        part = self.ladder[name]
        assert isinstance(part, KnownPart)
        return part

    @torch.no_grad()
    def calibrate(self, tokens: TokenBatch) -> None:
        """Add calibration tokens."""
        for statistics in self.statistics.values():
            assert isinstance(statistics, KnownStatistics)
            statistics.update(tokens)
        x = tokens.x.double()
        self.num_calibration += len(x)
        self.sum_x += x.sum(0)
        self.sum_xx.addmm_(x.mT, x)

    @torch.no_grad()
    def fit(self) -> None:
        """Fit every floor on all ranks' calibration tokens."""
        for statistics in self.statistics.values():
            assert isinstance(statistics, KnownStatistics)
            statistics.fit()
        del self.statistics
        for total in (self.num_calibration, self.sum_x, self.sum_xx):
            all_reduce_sum(total)
        covariance = self.sum_xx / self.num_calibration - torch.outer(self.mean, self.mean)
        # The host's solver: the same directions on every rank, whatever the device.
        vectors = torch.linalg.eigh(covariance.cpu())[1].flip(1)[:, : self.components.shape[1]]
        self.components.copy_(vectors)

    @torch.no_grad()
    def update(self, tokens: TokenBatch, output: SAEOutput) -> None:
        """Measure a batch of held-out tokens."""
        bin_B = bin_of(tokens.t, self.num_bins)
        x = tokens.x.double()
        self.tokens.index_add_(0, bin_B, torch.ones_like(bin_B, dtype=torch.float64))
        self.sums.index_add_(0, bin_B, x)
        self.square.index_add_(0, bin_B, x.square().sum(1))
        predictions = [self.rung(rung)(tokens.context) for rung in LADDER] + [output.known]
        errors = [(x - prediction.double()).square().sum(1) for prediction in predictions]
        centred = x - self.mean
        projected = (centred @ self.components).square()
        whole = centred.square().sum(1)
        errors += [
            (whole - projected[:, : self.num_components[name]].sum(1)).clamp(min=0) for name in ("pca_k", "pca_2k")
        ]
        self.errors.index_add_(1, bin_B, torch.stack(errors))

    def compute(self) -> dict[str, dict[str, Any]]:
        """The entry of metrics.json (on every rank alike); call once."""
        for total in (self.tokens, self.sums, self.square, self.errors):
            all_reduce_sum(total)
        return {name: self._figures(index, name) for index, name in enumerate(FLOORS)}

    def _figures(self, index: int, name: str) -> dict[str, Any]:
        bins = [
            {**bin_edges(b, self.num_bins), **self._explained(index, slice(b, b + 1))}
            for b in self.tokens.nonzero().squeeze(1).tolist()
        ]
        figures: dict[str, Any] = {**self._explained(index, slice(None)), "by_timestep": bins}
        if name in self.num_components:
            figures["components"] = self.num_components[name]
        return dict(measured(figures))

    def _explained(self, index: int, bins: slice) -> dict[str, float]:
        tokens, sums = self.tokens[bins].sum(), self.sums[bins].sum(0)
        square, error = self.square[bins].sum(), self.errors[index, bins].sum()
        fvu = quotient(error, square - sums.square().sum() / tokens, square)
        return {"mse": float(error) / float(tokens * sums.numel()), "fvu": fvu, "explained_variance": 1 - fvu}
