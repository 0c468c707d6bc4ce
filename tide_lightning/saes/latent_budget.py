"""How many latents a token may use: a shared budget over time, and the threshold that keeps it without a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.kernels import Threshold
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes.bins import at_time, centres

BudgetScope = Literal["token", "batch"]
"""Whether each token has k active latents, or a batch's tokens share k times their number."""

_SLOWEST = 0.01  # the weight of a new batch never falls below: the threshold follows the last hundred


class SharedThreshold(nn.Module):
    """The running mean of the smallest value that BatchTopK kept (Bussmann et al., arXiv 2412.06410).

    In training a batch shares its budget; afterwards a token's code is whatever exceeds this threshold, whoever else is
    in the batch.
    """

    value: Tensor
    num_updates: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(()))
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))

    def is_known(self) -> bool:
        """Whether any batch was seen."""
        return bool(self.num_updates > 0)

    def rule(self, weight_B: Tensor | None = None) -> Threshold:
        """What a token keeps; where its values have a weight, what is followed must have it too."""
        return Threshold(self.value, weight_B)

    @torch.no_grad()
    def follow(self, values: Tensor) -> None:
        """Take in what a batch of each rank kept; where nothing fired, there is nothing to learn."""
        fires = (values > 0) & values.isfinite()
        smallest = values.where(fires, torch.inf).amin() if values.numel() else values.new_tensor(torch.inf)
        sums = all_reduce_sum(torch.stack([smallest.where(fires.any(), 0).double(), fires.any().double()]))
        weight = (1 / (self.num_updates + 1)).clamp(min=_SLOWEST) * (sums[1] > 0)
        self.value.lerp_((sums[0] / sums[1].clamp(min=1)).to(self.value.dtype), weight.to(self.value.dtype))
        self.num_updates += sums[1] > 0


class BudgetOverTime(nn.Module):
    """By how much a token's values count when tokens of different t share a budget: the root of a sensitivity.

    An error of the same size costs the denoiser more at some times than at others, by c(t), which is 1 on average: by
    its sensitivity, times s(t)^2 where what is left has a scale of its own at each t. The weight of t is
    sqrt((1 - share) + share c(t)), so more latents go to times at which errors are dear.

    Args:
        share: 0 compares values as they are, 1 by nothing but what they are worth to the denoiser.
        num_bins: bins of t in which c is known.
    """

    curve: Tensor

    def __init__(self, share: float, num_bins: int) -> None:
        super().__init__()
        self.share = share
        self.register_buffer("curve", torch.ones(num_bins))

    @torch.no_grad()
    def fit(self, by_time: Tensor, scale: Tensor) -> None:
        """Set the weights.

        Args:
            by_time: the denoiser's sensitivity in bins of t, NaN where it was not measured.
            scale: the s of u = (x - known) / s, in bins of t; one where it is the same for all.
        """
        cost = by_time * at_time(scale.to(by_time.dtype), centres(len(by_time)).to(by_time)).square()
        known = ~cost.isnan() & (cost.nanmean() > 0)
        relative = torch.where(known, cost / cost.nanmean(), 1.0)
        there = at_time(relative, centres(len(self.curve)).to(relative))
        self.curve.copy_(((1 - self.share) + self.share * there).sqrt())

    def forward(self, t: Tensor) -> Tensor:
        """The weights [B] at times t [B]."""
        return at_time(self.curve, t)


def number_of_latents(k: int | float, d_sae: int, name: str) -> int:
    """A number of latents, or a fraction of all of them below 1; `name` stands in errors."""
    count = round(k * d_sae) if 0 < k < 1 else int(k)
    if count != k and k >= 1:
        raise UserError(f"{name} = {k}: give a whole number of latents, or a fraction of d_sae below 1")
    if not 1 <= count <= d_sae:
        raise UserError(
            f"{name} = {k} does not fit d_sae = {d_sae}: choose 1 to {d_sae} (or a larger expansion_factor)"
        )
    return count
