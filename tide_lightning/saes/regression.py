"""Streaming least squares with a mean for each bin of time, means for each place, and a linear map for each bin.

Shapes: K bins, H curves over time, P places, F features, D targets.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tide_lightning.reduction import all_reduce_sum
from tide_lightning.tokens import bin_of

_MOST_STEPS = 100  # of conjugate gradients; places are drawn at random, so a handful suffices


class Fit(NamedTuple):
    """What `BinnedRegression.solve` returns.

    y = by_time[bin] + sum over h of curve_h(bin) by_place[h, place] + f weight[bin]

    Fields:
        by_time: value of each bin where the place's is 0 and f is 0 [K, D].
        by_place: what each place adds, times each curve [H, P, D].
        weight: linear map of each bin [K, F, D].
    """

    by_time: Tensor
    by_place: Tensor
    weight: Tensor


class BinnedRegression(nn.Module):
    """Normal equations of y = mean(bin) + sum over h of curve_h(bin) mean_h(place) + A(bin) f, accumulated in float64.

    One pass over the data suffices. Sums of ranks are added, so every rank solves the same system.

    Args:
        curves: how much of each of a place's means counts in each equal bin of t in [0, 1] [K, H].
        num_places: places that have means of their own; 1 where they do not matter.
        d_feature: number of linear features, 0 for means alone.
        d_target: number of targets.
    """

    curves: Tensor
    n: Tensor
    sum_f: Tensor
    sum_y_bin: Tensor
    sum_y_place: Tensor
    sum_ff: Tensor
    sum_fy: Tensor

    def __init__(self, curves: Tensor, num_places: int, d_feature: int, d_target: int) -> None:
        super().__init__()
        num_bins, num_curves = curves.shape
        sizes = {
            "n": (num_bins, num_places),
            "sum_f": (num_bins, num_places, d_feature),
            "sum_y_bin": (num_bins, d_target),
            "sum_y_place": (num_curves, num_places, d_target),
            "sum_ff": (num_bins, d_feature, d_feature),
            "sum_fy": (num_bins, d_feature, d_target),
        }
        for name, size in sizes.items():
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64), persistent=False)
        self.register_buffer("curves", curves.double(), persistent=False)

    @torch.no_grad()
    def update(self, t: Tensor, place: Tensor, feature: Tensor, target: Tensor) -> None:
        """Add tokens: t [B] in [0, 1], place [B], feature [B, f], target [B, d]."""
        num_bins, num_places = self.n.shape
        bin_B = bin_of(t, num_bins)
        cell_B = bin_B * num_places + place
        f_BF, y_BD = feature.double(), target.double()
        self.n.view(-1).index_add_(0, cell_B, torch.ones_like(cell_B, dtype=torch.float64))
        self.sum_f.view(num_bins * num_places, -1).index_add_(0, cell_B, f_BF)
        self.sum_y_bin.index_add_(0, bin_B, y_BD)
        for curve_K, sum_PD in zip(self.curves.unbind(1), self.sum_y_place, strict=True):
            sum_PD.index_add_(0, place, curve_K[bin_B].unsqueeze(1) * y_BD)
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
        for sums in self._sums():
            all_reduce_sum(sums)

    @torch.no_grad()
    def add(self, other: BinnedRegression) -> None:
        """Add what another one of the same sizes has seen."""
        for mine, theirs in zip(self._sums(), other._sums(), strict=True):
            mine += theirs

    def _sums(self) -> list[Tensor]:
        return [self.n, self.sum_f, self.sum_y_bin, self.sum_y_place, self.sum_ff, self.sum_fy]

    def solve(self, ridge: float = 1e-4, shrinkage: float = 2.0) -> Fit:
        """Means and maps that minimise the squared error.

        With the places' means given, each bin's mean and map are a small least squares. What is left is one linear
        system for the places' means, solved by conjugate gradients without writing it out.

        Args:
            ridge: added to the diagonal of the features' scatter, relative to their mean variance.
            shrinkage: how many tokens' worth of 0 is mixed into what each place adds.
        """
        bins = _Bins(self.n, self.sum_f, self.sum_ff, self.curves, ridge)
        by_place = torch.zeros_like(self.sum_y_place)
        if by_place.shape[1] > 1:
            left = self.sum_y_place - bins.over_places(*bins.solve(self.sum_y_bin, self.sum_fy))
            by_place = _conjugate_gradients(bins, shrinkage, left)
        told_y, told_fy = bins.of_places(by_place)
        by_time, weight = bins.solve(self.sum_y_bin - told_y, self.sum_fy - told_fy)
        nearest = nearest_filled(self.n.sum(1), need=2.0 * self.sum_ff.shape[-1] + 2)
        return Fit(by_time[nearest], by_place, weight[nearest])


class _Bins:
    """Each bin's least squares of y on 1 and f, and what it tells the places."""

    def __init__(self, n_KP: Tensor, sum_f_KPF: Tensor, sum_ff_KFF: Tensor, curves_KH: Tensor, ridge: float) -> None:
        self.n_KP, self.curves_KH = n_KP, curves_KH
        self.n_K1 = n_KP.sum(1, keepdim=True).clamp(min=1)
        self.mean_f_KF = sum_f_KPF.sum(1) / self.n_K1
        self.n_KHP = curves_KH.unsqueeze(2) * n_KP.unsqueeze(1)
        self.sum_f_KHPF = curves_KH[:, :, None, None] * sum_f_KPF.unsqueeze(1)
        scatter = sum_ff_KFF - self.n_K1.unsqueeze(2) * self.mean_f_KF.unsqueeze(2) * self.mean_f_KF.unsqueeze(1)
        eye = torch.eye(scatter.shape[-1], dtype=scatter.dtype, device=scatter.device)
        level_K = scatter.diagonal(dim1=1, dim2=2).mean(1).nan_to_num().clamp(min=1e-12)
        self.root_KFF = torch.linalg.cholesky(scatter + ridge * level_K[:, None, None] * eye)

    def solve(self, sum_y_KD: Tensor, sum_fy_KFD: Tensor) -> tuple[Tensor, Tensor]:
        """Mean at f = 0 [K, D] and map [K, F, D] for such sums of targets."""
        centred = sum_fy_KFD - self.mean_f_KF.unsqueeze(2) * sum_y_KD.unsqueeze(1)
        weight = torch.cholesky_solve(centred, self.root_KFF) if centred.shape[1] else centred
        return sum_y_KD / self.n_K1 - (self.mean_f_KF.unsqueeze(1) @ weight).squeeze(1), weight

    def of_places(self, by_place_HPD: Tensor) -> tuple[Tensor, Tensor]:
        """The sums of targets over each bin [K, D] and [K, F, D], where a target is its place's value."""
        flat = by_place_HPD.flatten(0, 1)
        return self.n_KHP.flatten(1) @ flat, self.sum_f_KHPF.flatten(1, 2).mT @ flat

    def over_places(self, by_time_KD: Tensor, weight_KFD: Tensor) -> Tensor:
        """The sums over each place [H, P, D] of what the bins' means and maps predict."""
        of_means = torch.einsum("khp,kd->hpd", self.n_KHP, by_time_KD)
        return of_means + torch.einsum("khpf,kfd->hpd", self.sum_f_KHPF, weight_KFD)

    def among_places(self, shrinkage: float) -> Tensor:
        """What a place's means have to do with each other [P, H, H]."""
        eye = torch.eye(self.curves_KH.shape[1], dtype=self.n_KP.dtype, device=self.n_KP.device)
        return torch.einsum("kh,ki,kp->phi", self.curves_KH, self.curves_KH, self.n_KP) + shrinkage * eye


def _conjugate_gradients(bins: _Bins, shrinkage: float, left_HPD: Tensor) -> Tensor:
    """The b [H, P, D] with among b - (what bins predict of b, summed over places) = left; each target by itself."""
    among_PHI = bins.among_places(shrinkage)
    inverse_PHI = torch.linalg.inv(among_PHI)

    def times(matrix_PHI: Tensor, value_HPD: Tensor) -> Tensor:
        return torch.einsum("phi,ipd->hpd", matrix_PHI, value_HPD)

    b_HPD = torch.zeros_like(left_HPD)
    direction = scaled = times(inverse_PHI, left_HPD)
    square_D = first_D = (left_HPD * scaled).sum((0, 1))
    for _ in range(_MOST_STEPS):
        if not bool((square_D > 1e-24 * first_D).any()):
            break
        pushed = times(among_PHI, direction) - bins.over_places(*bins.solve(*bins.of_places(direction)))
        step_D = _ratio(square_D, (direction * pushed).sum((0, 1)))
        b_HPD = b_HPD + step_D * direction
        left_HPD = left_HPD - step_D * pushed
        scaled = times(inverse_PHI, left_HPD)
        before_D, square_D = square_D, (left_HPD * scaled).sum((0, 1))
        direction = scaled + _ratio(square_D, before_D) * direction
    return b_HPD


def _ratio(above_D: Tensor, below_D: Tensor) -> Tensor:
    """A quotient that is 0 where nothing is left to divide by."""
    return torch.where(below_D > 0, above_D / below_D.where(below_D > 0, 1), 0)


def nearest_filled(tokens: Tensor, need: float) -> Tensor:
    """For each bin the nearest bin that holds enough tokens (itself if it does)."""
    filled = (tokens >= min(need, float(tokens.max()))).nonzero().squeeze(1)
    bins = torch.arange(len(tokens), device=tokens.device)
    return filled[(bins.unsqueeze(1) - filled.unsqueeze(0)).abs().argmin(1)]
