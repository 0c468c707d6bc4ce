"""Fitting a known part: sums over the first tokens, solved on all ranks, and the scale of what is left."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes.bins import centres
from tide_lightning.saes.known import KNOTS, KnownPart, curves, flat_place
from tide_lightning.saes.regression import BinnedRegression, nearest_filled
from tide_lightning.tokens import TokenBatch, bin_of

HELD_OUT = 4
"""The scale is measured on one of so many calibration samples."""

_ENOUGH = 16  # tokens for a scale of a bin's own


class KnownStatistics(nn.Module):
    """Sums over the first tokens, from which a `KnownPart` is fitted.

    The scale is measured on tokens that the fit has not seen, those of every fourth sample: on its own tokens a fit
    with many places or features looks better than it is. Then these tokens are added: the final fit knows all of them.

    Args:
        known: the part to fit.
        scales: whether the scale is wanted; without it nothing is held out.
    """

    def __init__(self, known: KnownPart, scales: bool = True) -> None:
        super().__init__()
        self.known = [known]  # not a submodule: its buffers are not statistics
        self.sums = _Sums(known)
        self.scales = scales
        self.held_out: list[TokenBatch] = []

    def update(self, batch: TokenBatch) -> None:
        """Add a batch of the site's tokens; what is learned along trajectories takes no others."""
        if self.known[0].feature == "trajectory_noise":
            if batch.context.trajectory_noise is None:
                return
            batch = batch.select(~batch.context.trajectory_noise.isinf().any(1))
        if self.scales:
            apart = _is_held_out(batch.sample)
            self.held_out.append(batch.select(apart))
            batch = batch.select(~apart)
        self.sums.update(batch)

    def fit(self) -> None:
        """Solve on all ranks' tokens and write the result into the part."""
        self.sums.all_reduce()
        self.sums.solve()
        if not self.scales:
            return
        self._measure()
        seen_last = _Sums(self.known[0]).to(self.sums.targets.n.device)
        for batch in self.held_out:
            seen_last.update(batch)
        self.held_out = []
        seen_last.all_reduce()
        self.sums.add(seen_last)
        self.sums.solve()

    def _measure(self) -> None:
        """Write the scale: the root mean square of what the part leaves of the tokens held out, by bin or in all."""
        known = self.known[0]
        n_K = torch.zeros(known.num_bins, dtype=torch.float64, device=known.scale.device)
        square_K = torch.zeros_like(n_K)
        for batch in self.held_out:
            bin_B = bin_of(batch.t, known.num_bins)
            left_BD = batch.x.double() - known(batch.context).double()
            n_K.index_add_(0, bin_B, torch.ones_like(bin_B, dtype=n_K.dtype))
            square_K.index_add_(0, bin_B, left_BD.square().mean(1))
        all_reduce_sum(n_K)
        all_reduce_sum(square_K)
        if not n_K.any():
            raise UserError(
                f"the known part's scale is measured on one of {HELD_OUT} calibration samples, and there are too few: "
                "raise data.num_calibration_samples"
            )
        if len(known.scale) == 1:
            n_K, square_K = n_K.sum(0, keepdim=True), square_K.sum(0, keepdim=True)
        variance_K = square_K / n_K.clamp(min=1)
        known.scale.copy_(variance_K[nearest_filled(n_K, need=_ENOUGH)].sqrt().clamp(min=1e-6))


class _Sums(nn.Module):
    """What `KnownStatistics` sums up: the regression of activations, and that of a feature that is estimated."""

    def __init__(self, known: KnownPart) -> None:
        super().__init__()
        self.known = [known]  # not a submodule: its buffers are not statistics
        bins, d_feature, d = known.weight.shape
        at_centres = curves(centres(bins), torch.tensor(KNOTS, dtype=torch.float64))
        self.targets = BinnedRegression(at_centres, known.by_place.shape[1], d_feature, d)
        self.features = None
        if known.is_estimated:
            self.features = BinnedRegression(at_centres, 1, d_feature, known.estimator.shape[2])

    def update(self, batch: TokenBatch) -> None:
        """Add tokens."""
        known = self.known[0]
        one_place = torch.zeros_like(batch.sample)
        place = one_place if known.by_place.shape[1] == 1 else flat_place(batch.position, known.grid)
        feature = getattr(batch.context, known.feature) if known.feature else batch.x[:, :0]
        if feature is None:
            raise UserError(
                f"known_part {known.rung!r} needs each token's {known.feature}, which this source does not have"
            )
        self.targets.update(batch.t, place, feature, batch.x)
        if self.features is not None:
            assert batch.context.input is not None
            self.features.update(batch.t, one_place, batch.context.input, feature)

    def all_reduce(self) -> None:
        """Add the sums of all ranks."""
        for regression in self._regressions():
            regression.all_reduce()

    def add(self, other: _Sums) -> None:
        """Add what another one has seen."""
        for mine, theirs in zip(self._regressions(), other._regressions(), strict=True):
            mine.add(theirs)

    def solve(self) -> None:
        """Write means and maps into the part."""
        known = self.known[0]
        if self.features is not None:
            if not self.features.n.any():
                raise UserError(
                    f"known_part {known.rung!r} is learned along trajectories: use data.source denoise or both"
                )
            estimate = self.features.solve()
            known.estimator.copy_(torch.cat([estimate.weight, estimate.by_time.unsqueeze(1)], 1))
        fit = self.targets.solve()
        known.by_time.copy_(fit.by_time)
        known.by_place.copy_(fit.by_place)
        known.weight.copy_(fit.weight)

    def _regressions(self) -> list[BinnedRegression]:
        return [self.targets] if self.features is None else [self.targets, self.features]


def _is_held_out(sample: Tensor) -> Tensor:
    """One of any four samples in a row, and not always the same of the four: slots, and so ranks, take turns."""
    digits = sample.long()
    for bits in (32, 16, 8, 4, 2):  # the exclusive or of all digits to base 4
        digits = digits ^ (digits >> bits)
    return digits % HELD_OUT == HELD_OUT - 1
