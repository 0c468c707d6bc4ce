"""SAEs that are sparse because activity costs: a penalty whose weight is steered towards k active latents a token.

    loss = mean (u - u_hat)^2 + weight / D * mean over tokens of S(z)            S: each class's own

That is the papers' ||u - u_hat||^2 + weight * S(z), divided by D, with activations scaled to E ||u||^2 = D. Papers
choose the weight by hand and report what L0 comes out; comparisons are at equal L0. So after each step

    log weight += gain * clamp(log(L0 / k), -1, 1)

which is integral control: where it rests, a token has k active latents on average. `gain: 0` keeps the weight.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.sae import SAE, SAEOutput
from tide_lightning.tokens import SiteShape, TokenBatch


class SteeredWeight(nn.Module):
    """A positive weight that rises while more than k latents a token are active and falls while fewer are."""

    log: Tensor

    def __init__(self, start: float, gain: float) -> None:
        super().__init__()
        self.gain = gain
        self.register_buffer("log", torch.tensor(math.log(start)))

    def value(self) -> Tensor:
        """What the penalty is multiplied with."""
        return self.log.exp()

    @torch.no_grad()
    def follow(self, code: SparseCode, k: int) -> None:
        """Take in a batch of each rank."""
        fires = (code.values > 0).sum().double()
        sums = all_reduce_sum(torch.stack([fires, fires.new_tensor(float(code.num_tokens))]))
        excess = (sums[0] / sums[1].clamp(min=1)).clamp(min=1e-9).log() - math.log(k)
        self.log += (self.gain * excess.clamp(-1, 1)).to(self.log.dtype)


class PenalisedSAE(SAE):
    """What these SAEs share.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        expansion_factor: latents per channel, d_sae / d_in.
        k: active latents a token, on average, that the penalty's weight is steered towards.
        sparsity: the weight at the start.
        gain: how fast the weight follows; 0 keeps it.
        common: what all SAEs have; see `SAE`.
    """

    has_fixed_sizes = False

    def __init__(
        self,
        shape: SiteShape,
        expansion_factor: float = 16,
        k: int | float = 16,
        sparsity: float = 1.0,
        gain: float = 0.01,
        **common: Any,
    ) -> None:
        super().__init__(shape, expansion_factor, k, **common)
        if sparsity <= 0 or gain < 0:
            raise UserError(f"sparsity = {sparsity}, gain = {gain}: they must be > 0 and >= 0")
        self.sparsity, self.gain = sparsity, gain
        self.weight = SteeredWeight(sparsity, gain)

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        return super().config | {"sparsity": self.sparsity, "gain": self.gain}

    def follow(self, batch: TokenBatch, output: SAEOutput) -> None:
        """Steer the weight."""
        self.weight.follow(output.code, self.k)

    def _weighted(self, activity: Tensor, num_tokens: int) -> Tensor:
        """The penalty, given the sum of all tokens' S(z)."""
        return self.weight.value() / self.d_in * activity / max(1, num_tokens)
