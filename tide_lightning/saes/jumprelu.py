"""JumpReLUSAE: each latent has a threshold of its own (Rajamanoharan et al., arXiv 2407.14435).

    pi = W_enc (u_mod - b_dec) + b_enc
    z  = pi * H(pi - theta),  H the unit step
    S  = 2 / k (n - k)^2,  n = sum_i H(pi_i - theta_i) the number of active latents;  or n, with `penalty: step`

A step has no gradient, so thresholds learn by the paper's straight-through estimates, over pre-activations at most half
a bandwidth away from them (K = 1 there and 0 elsewhere):

    dz / dtheta = -theta / bandwidth * K((pi - theta) / bandwidth)
    dH / dtheta =     -1 / bandwidth * K((pi - theta) / bandwidth)

The paper learns log theta; theta itself moves faster in short runs, as sae-lens has it. Only positive pre-activations
take part, which is the same wherever theta is at least half a bandwidth.

The number itself is the paper's penalty; its distance from k is Gemma Scope 2's. A penalty on the number only ever
raises thresholds, and what it raised too far hardly comes down again: in short runs L0 stayed at 10 of 16 with the
penalty's weight steered to nothing, while the distance ended near 16. So the distance is the default.
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tide_lightning.errors import UserError
from tide_lightning.kernels import Encoded, Threshold, encode
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.penalised import PenalisedSAE
from tide_lightning.tokens import SiteShape

Penalty = Literal["step", "quadratic"]
"""The number of active latents, or its distance from k."""


class JumpReLUSAE(PenalisedSAE):
    """A learned threshold for each latent, trained straight through.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        threshold: of all latents at the start, in units of their pre-activations.
        bandwidth: how near a threshold pre-activations teach it.
        penalty: quadratic (the distance of a token's active latents from k) or step (their number).
        penalised: what SAEs with a penalty have; see `PenalisedSAE`.
    """

    def __init__(
        self,
        shape: SiteShape,
        threshold: float = 0.5,
        bandwidth: float = 0.1,
        penalty: Penalty = "quadratic",
        **penalised: Any,
    ) -> None:
        super().__init__(shape, **penalised)
        if penalty not in get_args(Penalty):
            raise UserError(f"penalty: there is no {penalty!r}; choose one of {', '.join(get_args(Penalty))}")
        if threshold <= 0 or bandwidth <= 0:
            raise UserError(f"threshold = {threshold}, bandwidth = {bandwidth}: both must be above 0")
        self.threshold_start, self.bandwidth = threshold, bandwidth
        self.penalty: Penalty = penalty
        self.threshold = nn.Parameter(torch.full((self.d_sae,), threshold))

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        own = {"threshold": self.threshold_start, "bandwidth": self.bandwidth, "penalty": self.penalty}
        return super().config | own

    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        """The pre-activations above their thresholds; in training also those that are near enough to teach."""
        below = self.bandwidth / 2 if self.training else 0.0
        read, rule = frame.modulated(u), Threshold(self.threshold.detach() - below)
        return encode(read, self.W_enc, self.b_enc, rule, backend=self.decode_backend, offset_D=self.b_dec)

    def _code(self, encoded: Encoded) -> SparseCode:
        near = super()._code(encoded)
        jumped: Tensor = _Jump.apply(near.values, self.threshold[near.indices], self.bandwidth)  # type: ignore[no-untyped-call]
        return near.with_values(jumped)

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        near = super()._code(encoded)
        active: Tensor = _Step.apply(near.values.detach(), self.threshold[near.indices], self.bandwidth)  # type: ignore[no-untyped-call]
        if self.penalty == "step":
            return {"sparsity": self._weighted(active.sum(), len(u))}
        l0 = active.new_zeros(len(u)).index_add(0, near.tokens(), active)
        return {"sparsity": self._weighted(2 / self.k * (l0 - self.k).square().sum(), len(u))}

    @torch.no_grad()
    def reseed(self, latents: Tensor, W_enc: Tensor, W_dec: Tensor) -> None:
        """Give latents new rows; what else they have starts anew."""
        super().reseed(latents, W_enc, W_dec)
        self.threshold[latents] = self.threshold_start


class _Jump(torch.autograd.Function):
    """Pre-activations above their thresholds, 0 for the others."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return pre.where(pre > threshold, 0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return grad.where(pre > threshold, 0), (-threshold / ctx.bandwidth * grad).where(near, 0), None


class _Step(torch.autograd.Function):
    """1 above the threshold, 0 below."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.bandwidth = bandwidth
        return (pre > threshold).to(pre.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        near = (pre - threshold).abs() < ctx.bandwidth / 2
        return None, (-grad / ctx.bandwidth).where(near, 0), None
