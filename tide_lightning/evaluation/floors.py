"""Floors: what cheaper predictors than the SAE explain of the same held-out tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.diffusion import unlabelled
from tide_lightning.evaluation.figures import bin_edges, measured
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE, KnownPart, KnownStatistics, Rung, SAEOutput
from tide_lightning.tokens import SiteShape, TokenBatch, bin_of
from tide_lightning.training.metrics import quotient

LADDER: tuple[Rung, ...] = ("mean", "mean_t", "mean_t_position")
"""Rungs that are fitted anew on the calibration tokens."""

FLOORS = (*LADDER, "known", "pca_k", "pca_2k")
"""All floors, as they stand in metrics.json."""


class FittedFloors(nn.Module):
    """What is fitted on a site's calibration tokens: the ladder, the tokens' mean [D], their principal directions.

    Args:
        shape: the site's.
        num_components: of the directions [D, C].
        num_known_bins: bins of t in which the ladder's means are estimated.
    """

    mean: Tensor
    components: Tensor

    def __init__(self, shape: SiteShape, num_components: int, num_known_bins: int = 20) -> None:
        super().__init__()
        self.ladder = nn.ModuleDict({rung: KnownPart(shape, rung, num_known_bins) for rung in LADDER})
        self.register_buffer("mean", torch.zeros(shape.d_in, dtype=torch.float64))
        self.register_buffer("components", torch.zeros(shape.d_in, num_components, dtype=torch.float64))

    def rung(self, name: str) -> KnownPart:
        """A part of the ladder."""
        part = self.ladder[name]
        assert isinstance(part, KnownPart)
        return part


def floors_of(saes: Mapping[str, SAE]) -> dict[str, FittedFloors]:
    """Floors to be fitted, one for each site: SAEs of one site share them, up to the largest k."""
    sizes: dict[str, tuple[SiteShape, int]] = {}
    for key, sae in saes.items():
        _, most = sizes.get(unlabelled(key), (None, 0))
        sizes[unlabelled(key)] = sae.shape, max(most, _num_components(sae)["pca_2k"])
    return {site: FittedFloors(shape, number) for site, (shape, number) in sizes.items()}


class FloorStatistics(nn.Module):
    """Sums over calibration tokens, from which floors are fitted."""

    num_tokens: Tensor
    sum_x: Tensor
    sum_xx: Tensor

    def __init__(self, floors: FittedFloors) -> None:
        super().__init__()
        self.floors = [floors]  # not a submodule: what is fitted is no statistic
        self.ladder = nn.ModuleList(KnownStatistics(floors.rung(rung), scales=False) for rung in LADDER)
        d = len(floors.mean)
        for name, size in {"num_tokens": (), "sum_x": (d,), "sum_xx": (d, d)}.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, tokens: TokenBatch) -> None:
        """Add calibration tokens."""
        for statistics in self.ladder:
            assert isinstance(statistics, KnownStatistics)
            statistics.update(tokens)
        x = tokens.x.double()
        self.num_tokens += len(x)
        self.sum_x += x.sum(0)
        self.sum_xx.addmm_(x.mT, x)

    @torch.no_grad()
    def fit(self) -> None:
        """Fit every floor on all ranks' calibration tokens."""
        for statistics in self.ladder:
            assert isinstance(statistics, KnownStatistics)
            statistics.fit()
        for total in (self.num_tokens, self.sum_x, self.sum_xx):
            all_reduce_sum(total)
        [floors] = self.floors
        floors.mean.copy_(self.sum_x / self.num_tokens)
        covariance = self.sum_xx / self.num_tokens - torch.outer(floors.mean, floors.mean)
        # The host's solver: the same directions on every rank, whatever the device.
        vectors = torch.linalg.eigh(covariance.cpu())[1].flip(1)[:, : floors.components.shape[1]]
        floors.components.copy_(vectors)


class SiteFloors(nn.Module):
    """An SAE's floors, measured on held-out tokens.

    Args:
        sae: its k sets the number of principal components, its known part is a floor itself.
        fitted: on its site's calibration tokens.
        num_bins: equal bins of t in [0, 1] for the figures.
    """

    tokens: Tensor
    sums: Tensor
    square: Tensor
    errors: Tensor

    def __init__(self, sae: SAE, fitted: FittedFloors, num_bins: int) -> None:
        super().__init__()
        self.num_bins, self.fitted = num_bins, fitted
        self.num_components = _num_components(sae)
        sizes = {
            "tokens": (num_bins,),
            "sums": (num_bins, sae.d_in),
            "square": (num_bins,),
            "errors": (len(FLOORS), num_bins),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))

    @torch.no_grad()
    def update(self, tokens: TokenBatch, output: SAEOutput) -> None:
        """Measure a batch of held-out tokens."""
        bin_B = bin_of(tokens.t, self.num_bins)
        x = tokens.x.double()
        self.tokens.index_add_(0, bin_B, torch.ones_like(bin_B, dtype=torch.float64))
        self.sums.index_add_(0, bin_B, x)
        self.square.index_add_(0, bin_B, x.square().sum(1))
        predictions = [self.fitted.rung(rung)(tokens.context) for rung in LADDER] + [output.known]
        errors = [(x - prediction.double()).square().sum(1) for prediction in predictions]
        centred = x - self.fitted.mean
        projected = (centred @ self.fitted.components[:, : self.num_components["pca_2k"]]).square()
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


def _num_components(sae: SAE) -> dict[str, int]:
    return {"pca_k": min(sae.k, sae.d_in), "pca_2k": min(2 * sae.k, sae.d_in)}
