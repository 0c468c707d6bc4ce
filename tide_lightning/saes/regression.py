"""Streaming least squares in bins of time, with a mean for each place."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tide_lightning.reduction import all_reduce_sum


class Fit(NamedTuple):
    """What `BinnedRegression.solve` returns.

    Fields:
        intercept: value at feature 0 for each bin and place [bins, places, d].
        weight: linear map for each bin [bins, f, d].
        residual_variance: mean over tokens and channels of the squared residual, for each bin [bins].
        tokens: tokens seen in each bin [bins].
    """

    intercept: Tensor
    weight: Tensor
    residual_variance: Tensor
    tokens: Tensor


class BinnedRegression(nn.Module):
    """Normal equations of y = mean(bin, place) + A(bin) f, accumulated in float64.

    One pass over the data suffices: moments are kept about zero and centred on each place's own mean when
    solved. Sums of ranks are added, so every rank solves the same system.

    Args:
        num_bins: equal bins of t in [0, 1].
        num_places: rows of the table of means; 1 where places do not matter.
        d_feature: number of linear features, 0 for means alone.
        d_target: number of targets.
    """

    n: Tensor
    sum_f: Tensor
    sum_y: Tensor
    sum_ff: Tensor
    sum_fy: Tensor
    sum_yy: Tensor

    def __init__(self, num_bins: int, num_places: int, d_feature: int, d_target: int) -> None:
        super().__init__()
        sizes = {
            "n": (num_bins, num_places),
            "sum_f": (num_bins, num_places, d_feature),
            "sum_y": (num_bins, num_places, d_target),
            "sum_ff": (num_bins, d_feature, d_feature),
            "sum_fy": (num_bins, d_feature, d_target),
            "sum_yy": (num_bins,),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64), persistent=False)

    @torch.no_grad()
    def update(self, t: Tensor, place: Tensor, feature: Tensor, target: Tensor) -> None:
        """Add tokens: t [B] in [0, 1], place [B], feature [B, f], target [B, d]."""
        num_bins, num_places = self.n.shape
        bin_B = (t * num_bins).long().clamp(0, num_bins - 1)
        cell_B = bin_B * num_places + place
        f_BF, y_BD = feature.double(), target.double()
        self.n.view(-1).index_add_(0, cell_B, torch.ones_like(cell_B, dtype=torch.float64))
        self.sum_f.view(num_bins * num_places, -1).index_add_(0, cell_B, f_BF)
        self.sum_y.view(num_bins * num_places, -1).index_add_(0, cell_B, y_BD)
        self.sum_yy.index_add_(0, bin_B, y_BD.square().sum(1))
        if f_BF.shape[1] == 0:
            return
        order = bin_B.argsort()
        counts = torch.bincount(bin_B, minlength=num_bins).tolist()
        parts = zip(torch.split(f_BF[order], counts), torch.split(y_BD[order], counts), strict=True)
        for b, (f, y) in enumerate(parts):
            self.sum_ff[b].addmm_(f.mT, f)
            self.sum_fy[b].addmm_(f.mT, y)

    def all_reduce(self) -> None:
        """Add the sums of all ranks."""
        for buffer in self.buffers():
            all_reduce_sum(buffer)

    def solve(self, ridge: float = 1e-4, shrinkage: float = 2.0) -> Fit:
        """Means and maps that minimise the squared error.

        Args:
            ridge: added to the diagonal, relative to the features' mean variance.
            shrinkage: how many tokens' worth of the bin's own mean is mixed into each place's mean.
        """
        n_BP1 = self.n.unsqueeze(-1)
        n_B = self.n.sum(1)
        mean_y_B = self.sum_y.sum(1) / n_B.clamp(min=1).unsqueeze(-1)
        mean_f_B = self.sum_f.sum(1) / n_B.clamp(min=1).unsqueeze(-1)
        mean_y = (self.sum_y + shrinkage * mean_y_B.unsqueeze(1)) / (n_BP1 + shrinkage)
        mean_f = (self.sum_f + shrinkage * mean_f_B.unsqueeze(1)) / (n_BP1 + shrinkage)
        # Scatter about the (shrunk) means: sum (f - m)(y - l)' = sum f y' - sums m' ... + n m l'
        ff = self.sum_ff - _outer(mean_f, self.sum_f) - _outer(self.sum_f, mean_f) + _outer(n_BP1 * mean_f, mean_f)
        fy = self.sum_fy - _outer(mean_f, self.sum_y) - _outer(self.sum_f, mean_y) + _outer(n_BP1 * mean_f, mean_y)
        yy = self.sum_yy + ((n_BP1 * mean_y - 2 * self.sum_y) * mean_y).sum((1, 2))
        eye = torch.eye(ff.shape[-1], dtype=ff.dtype, device=ff.device)
        level = ff.diagonal(dim1=1, dim2=2).mean(1, keepdim=True).nan_to_num().clamp(min=1e-12).unsqueeze(-1)
        weight = torch.linalg.solve(ff + ridge * level * eye, fy) if ff.shape[-1] else fy
        sse = yy - 2 * (weight * fy).sum((1, 2)) + (weight * (ff @ weight)).sum((1, 2))
        intercept = mean_y - mean_f @ weight
        tokens = n_B
        nearest = _nearest_filled(tokens, need=2.0 * ff.shape[-1] + 2)
        variance = (sse / (tokens * mean_y.shape[-1]).clamp(min=1)).clamp(min=0)
        return Fit(intercept[nearest], weight[nearest], variance[nearest], tokens)


def _outer(a: Tensor, b: Tensor) -> Tensor:
    """Sum over places of a_p b_p' for each bin: [bins, places, i] x [bins, places, j] -> [bins, i, j]."""
    return a.mT @ b


def _nearest_filled(tokens: Tensor, need: float) -> Tensor:
    """For each bin the nearest bin that holds enough tokens (itself if it does)."""
    filled = (tokens >= min(need, float(tokens.max()))).nonzero().squeeze(1)
    bins = torch.arange(len(tokens), device=tokens.device)
    return filled[(bins.unsqueeze(1) - filled.unsqueeze(0)).abs().argmin(1)]
