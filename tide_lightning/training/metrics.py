"""Reconstruction and health of one site, accumulated in float64 and reduced over ranks, never averaged over batches."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor
from torchmetrics import Metric

from tide_lightning.saes import SAEOutput
from tide_lightning.tokens import TokenBatch, bin_of


class Reconstruction(TypedDict):
    """One site's figures; the definitions are those of metrics.json.

    Fields:
        tokens: how many were measured.
        mse: mean over tokens and channels of (x - x_hat)^2, in the activation's own units.
        nmse: sum ||x - x_hat||^2 / sum ||x||^2.
        fvu: sum ||x - x_hat||^2 / sum ||x - m||^2, m the mean of the tokens measured (in a bin, of the bin's). Where
            the denominator is nothing but rounding (constant activations), this and the other quotients are 0 for an
            error that is no more, and 1 for any other.
        explained_variance: 1 - fvu.
        explained_variance_beyond_known: the same with the SAE's own known part as m.
        cosine: mean cosine of x and x_hat.
        l0: mean number of latents that fire.
    """

    tokens: int
    mse: float
    nmse: float
    fvu: float
    explained_variance: float
    explained_variance_beyond_known: float
    cosine: float
    l0: float


class ReconstructionMetric(Metric):
    """Sums from which the figures of one site follow, in total and by bin of t.

    Args:
        d_in: channels.
        d_sae: latents.
        num_bins: equal bins of t in [0, 1].
    """

    full_state_update = False
    tokens: Tensor
    sum_x: Tensor
    square_x: Tensor
    error: Tensor
    error_known: Tensor
    cosine: Tensor
    l0: Tensor
    fired: Tensor

    def __init__(self, d_in: int, d_sae: int, num_bins: int = 10) -> None:
        super().__init__(compute_on_cpu=False)
        self.num_bins = num_bins
        for name in ("tokens", "square_x", "error", "error_known", "cosine", "l0"):
            self.add_state(name, torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sum_x", torch.zeros(num_bins, d_in, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("fired", torch.zeros(d_sae, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, batch: TokenBatch, output: SAEOutput) -> None:
        """Add a batch's tokens."""
        self.add(batch, output)

    def was_updated(self) -> None:
        """Take note that `add` was called: torchmetrics itself sees calls of `update` only."""
        self._update_count += 1
        self._computed = None

    def sums(self) -> list[Tensor]:
        """The memory that batches are added to; it stays the same."""
        return [getattr(self, name) for name in self._defaults]

    def reset(self) -> None:
        """Start anew in the same memory, which a recorded step adds to."""
        kept = {name: getattr(self, name) for name in self._defaults}
        super().reset()
        for name, tensor in kept.items():
            setattr(self, name, tensor.zero_())

    def add(self, batch: TokenBatch, output: SAEOutput) -> None:
        """What `update` does, as nothing but operations on tensors."""
        bin_B = bin_of(batch.t, self.num_bins)
        x, x_hat = batch.x.double(), output.x_hat.detach().double()
        known = output.known.detach().double()
        cosine = torch.nn.functional.cosine_similarity(x, x_hat, dim=1)
        self.tokens.index_add_(0, bin_B, torch.ones_like(cosine))
        self.sum_x.index_add_(0, bin_B, x)
        self.square_x.index_add_(0, bin_B, x.square().sum(1))
        self.error.index_add_(0, bin_B, (x - x_hat).square().sum(1))
        self.error_known.index_add_(0, bin_B, (x - known).square().sum(1))
        self.cosine.index_add_(0, bin_B, cosine)
        self.l0.index_add_(0, bin_B, output.code.l0().double())
        self.fired += output.code.fired()

    def compute(self) -> dict[str, Any]:
        """`total` (a `Reconstruction`), `by_timestep` (one a non-empty bin, with low and high), `fired` [d_sae]."""
        bins = [
            {"low": b / self.num_bins, "high": (b + 1) / self.num_bins, **self._figures(slice(b, b + 1))}
            for b in self.tokens.nonzero().squeeze(1).tolist()
        ]
        return {"total": self._figures(slice(None)), "by_timestep": bins, "fired": self.fired.clone()}

    def _figures(self, bins: slice) -> Reconstruction:
        tokens, square, sums = self.tokens[bins].sum(), self.square_x[bins].sum(), self.sum_x[bins].sum(0)
        mean = sums / tokens
        variance = square - 2 * (sums * mean).sum() + tokens * mean.square().sum()
        error, known = self.error[bins].sum(), self.error_known[bins].sum()
        return {
            "tokens": int(tokens),
            "mse": float(error / (tokens * len(mean))),
            "nmse": quotient(error, square, square),
            "fvu": quotient(error, variance, square),
            "explained_variance": 1 - quotient(error, variance, square),
            "explained_variance_beyond_known": 1 - quotient(error, known, square),
            "cosine": float(self.cosine[bins].sum() / tokens),
            "l0": float(self.l0[bins].sum() / tokens),
        }


_ROUNDING = 1e-12  # of the sum of squares, in float32's squares


def quotient(error: Tensor, whole: Tensor, square: Tensor) -> float:
    """Error / whole, parts of a sum of squares; where the whole is but rounding, 0 for an error that is too, else 1."""
    if float(whole) > _ROUNDING * float(square):
        return float(error / whole)
    return float(float(error) > _ROUNDING * float(square))
