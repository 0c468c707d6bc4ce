"""The known part of an activation: what follows from the timestep, the place and the input (DESIGN: a ladder).

A diffusion transformer's residual stream carries its input along. What a small regression can tell is
subtracted before encoding, so that latents are spent on the rest.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.saes.bins import at_time, between_bins
from tide_lightning.saes.regression import BinnedRegression
from tide_lightning.tokens import SiteShape, TokenBatch

Rung = Literal[
    "mean", "mean_t", "mean_t_position", "noise_estimate", "previous_step", "input_token", "input_window", "noise_token"
]
"""mean < mean(t) < mean(t, position) < ... and one of the rest.

noise_estimate is a linear estimate of the noise from the window; previous_step the noise that a trajectory's last two
inputs tell, and off trajectories a linear estimate of that.
"""

LEAKING: frozenset[Rung] = frozenset({"noise_token"})
"""Rungs that use what the denoiser was not given: for reading features, never for splicing."""

_FEATURE: dict[Rung, str] = {
    "input_token": "input",
    "input_window": "window",
    "noise_estimate": "window",
    "noise_token": "noise",
    "previous_step": "trajectory_noise",
}

_ESTIMATED: dict[Rung, str] = {"noise_estimate": "noise", "previous_step": "trajectory_noise"}
"""What a rung also learns to estimate from the window."""

_NOWHERE: dict[Rung, str] = {
    "noise_estimate": "known_part 'noise_estimate' is learned from true noise: use data.source noise or both",
    "previous_step": "known_part 'previous_step' is learned along trajectories: use data.source denoise or both",
}


class KnownPart(nn.Module):
    """known(t, position, f) = intercept(t, position) + f A(t), linear in t between the centres of bins.

    Args:
        shape: the site's shape.
        rung: how much is taken as known.
        num_bins: bins of t in which means and maps are estimated.
        scale_by_timestep: whether the residual's scale s is one number or one for each bin.
    """

    intercept: Tensor
    weight: Tensor
    estimator: Tensor
    scale: Tensor

    def __init__(
        self, shape: SiteShape, rung: Rung = "input_token", num_bins: int = 20, scale_by_timestep: bool = False
    ) -> None:
        super().__init__()
        if rung not in get_args(Rung):
            raise UserError(f"known_part: there is no rung {rung!r}; choose one of {', '.join(get_args(Rung))}")
        self.rung: Rung = rung
        self.grid = tuple(shape.grid)
        self.num_bins = 1 if rung == "mean" else num_bins
        places = 1 if rung in ("mean", "mean_t") else math.prod(self.grid)
        self.feature = _FEATURE.get(rung)  # what is read from the token
        self.d_read = {None: 0, "window": shape.d_window}.get(self.feature, shape.d_input)
        self.estimated = _ESTIMATED.get(rung)
        if shape.d_window == 0 and (self.feature == "window" or self.estimated):
            raise UserError(f"known_part {rung!r} reads the window around a token: set data.window_radius >= 1")
        d_estimate, d_from = (shape.d_input, shape.d_window) if self.estimated else (0, self.d_read)
        self.register_buffer("intercept", torch.zeros(self.num_bins, places, shape.d_in))
        self.register_buffer("weight", torch.zeros(self.num_bins, d_estimate or self.d_read, shape.d_in))
        self.register_buffer("estimator", torch.zeros(self.num_bins, d_from + 1, d_estimate))
        self.register_buffer("scale", torch.ones(self.num_bins if scale_by_timestep else 1))

    def forward(
        self,
        timestep: Tensor | None = None,
        position: Tensor | None = None,
        input: Tensor | None = None,
        window: Tensor | None = None,
        noise: Tensor | None = None,
        trajectory_noise: Tensor | None = None,
    ) -> Tensor:
        """What is known of each token [B, d]; [1, d] for the rung `mean`."""
        if self.rung == "mean":
            return self.intercept[0]
        if timestep is None:
            raise ValueError(f"known part {self.rung!r} depends on the timestep: pass it")
        low_B, mix_B = between_bins(timestep.to(self.weight.dtype), self.num_bins)
        cell_B = self._place(position, len(timestep))
        high_B = (low_B + 1).clamp(max=self.num_bins - 1)
        known = torch.lerp(self.intercept[low_B, cell_B], self.intercept[high_B, cell_B], mix_B.unsqueeze(1))
        if self.feature is None:
            return known
        hat_BK = self._hat(low_B, mix_B)
        if self.estimated:
            feature = self._estimate(hat_BK, window)
            if self.feature == "trajectory_noise" and trajectory_noise is not None:
                feature = torch.where(trajectory_noise.isinf(), feature, trajectory_noise.to(feature.dtype))
        else:
            feature = self._needed({"input": input, "window": window, "noise": noise}[self.feature], self.feature)
        return known + _by_bin(hat_BK, feature, self.weight)

    def scale_at(self, timestep: Tensor | None = None) -> Tensor:
        """The s of u = (x - known) / s: [B, 1], or [1] where it is the same for all t."""
        if len(self.scale) == 1:
            return self.scale
        if timestep is None:
            raise ValueError("this scale depends on the timestep: pass it")
        return at_time(self.scale, timestep).unsqueeze(1)

    def _needed(self, feature: Tensor | None, name: str) -> Tensor:
        if feature is None:
            raise ValueError(f"known part {self.rung!r} needs each token's {name}: pass it")
        return feature.to(self.weight.dtype)

    def _estimate(self, hat_BK: Tensor, window: Tensor | None) -> Tensor:
        """The noise [B, p] by the linear map from windows."""
        window = self._needed(window, "window")
        return _by_bin(hat_BK, torch.cat([window, torch.ones_like(window[:, :1])], 1), self.estimator)

    def _hat(self, low_B: Tensor, mix_B: Tensor) -> Tensor:
        hat_BK = mix_B.new_zeros(len(low_B), self.num_bins)
        hat_BK.scatter_(1, low_B.unsqueeze(1), (1 - mix_B).unsqueeze(1))
        return hat_BK.scatter_add_(1, (low_B + 1).clamp(max=self.num_bins - 1).unsqueeze(1), mix_B.unsqueeze(1))

    def _place(self, position: Tensor | None, num_tokens: int) -> Tensor | int:
        if self.intercept.shape[1] == 1:
            return 0
        if position is None:
            raise ValueError(f"known part {self.rung!r} depends on the position: pass it")
        return flat_place(position, self.grid)


class KnownStatistics(nn.Module):
    """Sums over the first tokens, from which a `KnownPart` is fitted.

    Args:
        known: the part to fit.
    """

    def __init__(self, known: KnownPart) -> None:
        super().__init__()
        bins, places, d = known.intercept.shape
        self.known = [known]  # not a submodule: its buffers are not statistics
        self.targets = BinnedRegression(bins, places, known.d_read, d)
        _, d_from, d_estimate = known.estimator.shape
        self.noise = BinnedRegression(bins, 1, d_from - 1, d_estimate) if known.estimated else None

    def update(self, batch: TokenBatch) -> None:
        """Add a batch of the site's tokens; what is learned along trajectories takes no others."""
        known = self.known[0]
        if known.feature == "trajectory_noise":
            if batch.trajectory_noise is None:
                return
            batch = batch.select(~batch.trajectory_noise.isinf().any(1))
        places = self.targets.n.shape[1]
        place = flat_place(batch.position, known.grid) if places > 1 else torch.zeros_like(batch.sample)
        read = batch.tensors().get(known.feature) if known.feature else batch.x[:, :0]
        if read is None:
            raise UserError(
                f"known_part {known.rung!r} needs each token's {known.feature}, which this source does not have"
            )
        self.targets.update(batch.t, place, read, batch.x)
        noise = batch.tensors().get(known.estimated) if known.estimated else None
        if self.noise is not None and noise is not None:
            assert batch.window is not None
            self.noise.update(batch.t, torch.zeros_like(batch.sample), batch.window, noise)

    def fit(self) -> Tensor:
        """Solve on all ranks' tokens and write the result into the part; the residual's variance by bin."""
        known = self.known[0]
        self.targets.all_reduce()
        projection = None
        if self.noise is not None:
            self.noise.all_reduce()
            if not self.noise.n.any():
                raise UserError(_NOWHERE[known.rung])
            estimate = self.noise.solve()
            known.estimator.copy_(torch.cat([estimate.weight, estimate.intercept], 1))
            projection = estimate.weight if known.feature == "window" else None
        fit = self.targets.solve(projection)
        intercept = fit.intercept
        if projection is not None:  # the estimator's own intercept is part of the feature
            intercept = intercept - estimate.intercept @ fit.weight
        known.intercept.copy_(intercept)
        known.weight.copy_(fit.weight)
        variance = fit.residual_variance
        if len(known.scale) == 1:
            variance = (variance * fit.tokens).sum() / fit.tokens.sum().clamp(min=1)
        known.scale.copy_(variance.sqrt().clamp(min=1e-6))
        return fit.residual_variance


def flat_place(position: Tensor, grid: tuple[int, ...]) -> Tensor:
    """Row-major index of integer grid coordinates [B, axes]."""
    place = position[:, 0].long()
    for axis, size in enumerate(grid[1:], start=1):
        place = place * size + position[:, axis].long()
    return place


def _by_bin(hat_BK: Tensor, feature_BF: Tensor, weight_KFD: Tensor) -> Tensor:
    """Sum over bins of hat * (feature @ weight): one product with features spread over bins.

    The shapes do not depend on the data, so nothing waits for the device; the product costs bins * f / d_sae of the
    encoder's.
    """
    spread = (hat_BK.unsqueeze(2) * feature_BF.unsqueeze(1)).flatten(1)
    return spread @ weight_KFD.flatten(0, 1)
