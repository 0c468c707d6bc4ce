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
from tide_lightning.tokens import SiteShape, TokenContext

Rung = Literal["mean", "mean_t", "mean_t_position", "previous_step", "input_token", "noise_token"]
"""mean < mean(t) < mean(t, position) < ... and one of the rest.

previous_step is the noise that a trajectory's last two inputs tell, and off trajectories a linear estimate of that from
the token's own input.
"""

LEAKING: frozenset[Rung] = frozenset({"noise_token"})
"""Rungs that use what the denoiser was not given: for reading features, never for splicing."""

_FEATURE: dict[Rung, str] = {
    "input_token": "input",
    "noise_token": "noise",
    "previous_step": "trajectory_noise",
}
"""The field of `TokenContext` that a rung reads besides time and place."""

KNOTS = (0.0, 0.3, 1.0)
"""The times at which a place has a mean of its own; on the toybox better than one in all, and than one for each bin."""


def curves(t: Tensor, knots: Tensor) -> Tensor:
    """How much each knot counts at times t [B, knots]: 1 there, 0 at the next ones, linear between."""
    high_B = torch.searchsorted(knots, t.contiguous()).clamp(1, len(knots) - 1)
    mix_B = ((t - knots[high_B - 1]) / (knots[high_B] - knots[high_B - 1])).clamp(0, 1)
    weight_BH = t.new_zeros(len(t), len(knots)).scatter_(1, (high_B - 1).unsqueeze(1), (1 - mix_B).unsqueeze(1))
    return weight_BH.scatter_(1, high_B.unsqueeze(1), mix_B.unsqueeze(1))


def rungs_of(shape: SiteShape) -> tuple[Rung, ...]:
    """Those that a site's tokens allow: text tokens, which stand in one row, are no noised ones."""
    return tuple(rung for rung in get_args(Rung) if len(shape.grid) > 1 or _FEATURE.get(rung) in (None, "input"))


class KnownPart(nn.Module):
    """known(t, position, f) = mean(t) + mean(position, t) + f A(t), linear in t between the centres of bins.

    A place's mean is linear in t between the few `KNOTS`; one for each bin would be a table larger than the SAE itself.

    Args:
        shape: the site's shape.
        rung: how much is taken as known.
        num_bins: bins of t in which means and maps are estimated.
        scale_by_timestep: whether the residual's scale s is one number or one for each bin.
    """

    by_time: Tensor
    knots: Tensor
    by_place: Tensor
    weight: Tensor
    estimator: Tensor
    scale: Tensor

    def __init__(
        self, shape: SiteShape, rung: Rung = "input_token", num_bins: int = 20, scale_by_timestep: bool = False
    ) -> None:
        super().__init__()
        if rung not in get_args(Rung):
            raise UserError(f"known_part: there is no rung {rung!r}; choose one of {', '.join(get_args(Rung))}")
        if rung not in rungs_of(shape):
            raise UserError(f"known_part {rung!r} reads the noise of image tokens; a text stream's have none")
        self.rung: Rung = rung
        self.grid = tuple(shape.grid)
        self.num_bins = 1 if rung == "mean" else num_bins
        places = 1 if rung in ("mean", "mean_t") else math.prod(self.grid)
        self.feature = _FEATURE.get(rung)  # what is read from the token
        self.is_estimated = rung == "previous_step"
        """Whether the feature is estimated from the token's input where it is not known."""
        d_feature, d_estimated = shape.d_input if self.feature else 0, shape.d_input if self.is_estimated else 0
        self.register_buffer("by_time", torch.zeros(self.num_bins, shape.d_in))
        self.register_buffer("knots", torch.tensor(KNOTS), persistent=False)
        self.register_buffer("by_place", torch.zeros(len(KNOTS), places, shape.d_in))
        self.register_buffer("weight", torch.zeros(self.num_bins, d_feature, shape.d_in))
        self.register_buffer("estimator", torch.zeros(self.num_bins, d_feature + 1, d_estimated))
        self.register_buffer("scale", torch.ones(self.num_bins if scale_by_timestep else 1))

    def forward(self, context: TokenContext | None = None) -> Tensor:
        """What is known of each token [B, d]; [1, d] for the rung `mean`, which needs no context."""
        if self.rung == "mean":
            return self.by_time
        if context is None:
            raise ValueError(f"known part {self.rung!r} depends on the time: pass a context")
        low_B, mix_B = between_bins(context.t.to(self.weight.dtype), self.num_bins)
        high_B = (low_B + 1).clamp(max=self.num_bins - 1)
        known = torch.lerp(self.by_time[low_B], self.by_time[high_B], mix_B.unsqueeze(1))
        if self.by_place.shape[1] > 1:
            if context.position is None:
                raise ValueError(f"known part {self.rung!r} depends on the position: pass it")
            place_B = flat_place(context.position, self.grid)
            for curve_B, by_place in zip(
                curves(context.t.to(known.dtype), self.knots.to(known.dtype)).unbind(1), self.by_place, strict=True
            ):
                known = known + curve_B.unsqueeze(1) * by_place[place_B]
        if self.feature is None:
            return known
        hat_BK = self._hat(low_B, mix_B)
        return known + _by_bin(hat_BK, self._feature(context, hat_BK), self.weight)

    def scale_at(self, t: Tensor | None = None) -> Tensor:
        """The s of u = (x - known) / s: [B, 1], or [1] where it is the same for all t."""
        if len(self.scale) == 1:
            return self.scale
        if t is None:
            raise ValueError("this scale depends on the time: pass it")
        return at_time(self.scale, t).unsqueeze(1)

    def _feature(self, context: TokenContext, hat_BK: Tensor) -> Tensor:
        """What is read from each token [B, f], estimated where it may be and is missing."""
        assert self.feature is not None
        given: Tensor | None = getattr(context, self.feature)
        if not self.is_estimated:
            return self._needed(given, self.feature)
        input_BP = self._needed(context.input, "input")
        estimated = _by_bin(hat_BK, torch.cat([input_BP, torch.ones_like(input_BP[:, :1])], 1), self.estimator)
        return estimated if given is None else torch.where(given.isinf(), estimated, given.to(estimated.dtype))

    def _needed(self, feature: Tensor | None, name: str) -> Tensor:
        if feature is None:
            raise ValueError(f"known part {self.rung!r} needs each token's {name}: pass it")
        return feature.to(self.weight.dtype)

    def _hat(self, low_B: Tensor, mix_B: Tensor) -> Tensor:
        hat_BK = mix_B.new_zeros(len(low_B), self.num_bins)
        hat_BK.scatter_(1, low_B.unsqueeze(1), (1 - mix_B).unsqueeze(1))
        return hat_BK.scatter_add_(1, (low_B + 1).clamp(max=self.num_bins - 1).unsqueeze(1), mix_B.unsqueeze(1))


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
