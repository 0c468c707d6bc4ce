"""Reconstruction and health of one site, accumulated in float64 and reduced over ranks, never averaged over batches."""

from __future__ import annotations

from typing import Any, TypedDict

import torch
from torch import Tensor
from torchmetrics import Metric

from tide_lightning.saes import SAEOutput
from tide_lightning.tokens import TokenBatch


class Reconstruction(TypedDict):
    """One site's figures; the definitions are those of metrics.json.

    Fields:
        tokens: how many were measured.
        mse: mean over tokens and channels of (x - x_hat)^2, in the activation's own units.
        nmse: sum ||x - x_hat||^2 / sum ||x||^2.
        fvu: sum ||x - x_hat||^2 / sum ||x - m||^2, m the mean of the tokens measured (in a bin, of the bin's).
        explained_variance: 1 - fvu.
        explained_variance_beyond_known: the same with the SAE's own known part as m.
        cosine: mean cosine of x and x_hat.
        cosine_centred: mean cosine of x - m and x_hat - m, over the first `cosine_tokens` tokens of each rank.
        l0: mean number of latents that fire.
    """

    tokens: int
    mse: float
    nmse: float
    fvu: float
    explained_variance: float
    explained_variance_beyond_known: float
    cosine: float
    cosine_centred: float
    l0: float


class ReconstructionMetric(Metric):
    """Sums from which the figures of one site follow, in total and by bin of t.

    Args:
        d_in: channels.
        d_sae: latents.
        num_bins: equal bins of t in [0, 1].
        cosine_tokens: how many tokens a rank keeps for the centred cosine, which needs the final mean.
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
    kept: list[Tensor] | Tensor
    kept_bin: list[Tensor] | Tensor

    def __init__(self, d_in: int, d_sae: int, num_bins: int = 10, cosine_tokens: int = 8192) -> None:
        super().__init__(compute_on_cpu=False)
        self.num_bins, self.cosine_tokens = num_bins, cosine_tokens
        for name in ("tokens", "square_x", "error", "error_known", "cosine", "l0"):
            self.add_state(name, torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sum_x", torch.zeros(num_bins, d_in, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("fired", torch.zeros(d_sae, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("kept", [], dist_reduce_fx="cat")  # [n, 2, d] of x and x_hat
        self.add_state("kept_bin", [], dist_reduce_fx="cat")

    def update(self, batch: TokenBatch, output: SAEOutput) -> None:
        """Add a batch's tokens."""
        bin_B = (batch.t * self.num_bins).long().clamp(0, self.num_bins - 1)
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
        have = sum(len(part) for part in self._kept_parts())
        if have < self.cosine_tokens:
            rows = slice(0, self.cosine_tokens - have)
            self._kept_parts().append(torch.stack([x[rows], x_hat[rows]], 1).float())
            self._kept_bins().append(bin_B[rows])

    def compute(self) -> dict[str, Any]:
        """`total` (a `Reconstruction`), `by_timestep` (one a non-empty bin, with low and high), `fired` [d_sae]."""
        total_mean = self.sum_x.sum(0) / self.tokens.sum()
        kept, kept_bin = torch.cat(self._kept_parts()), torch.cat(self._kept_bins())
        every = slice(None)
        total = self._figures(every, total_mean, kept)
        bins = []
        for b in self.tokens.nonzero().squeeze(1).tolist():
            low, high = b / self.num_bins, (b + 1) / self.num_bins
            mean = self.sum_x[b] / self.tokens[b]
            bins.append({"low": low, "high": high, **self._figures(slice(b, b + 1), mean, kept[kept_bin == b])})
        return {"total": total, "by_timestep": bins, "fired": self.fired.clone()}

    def _figures(self, bins: slice, mean: Tensor, kept: Tensor) -> Reconstruction:
        tokens = self.tokens[bins].sum()
        square = self.square_x[bins].sum()
        sums = self.sum_x[bins].sum(0)
        spread = square - 2 * (sums * mean).sum() + tokens * mean.square().sum()
        error, known = self.error[bins].sum(), self.error_known[bins].sum()
        centred = kept.double() - mean
        cosine_centred = torch.nn.functional.cosine_similarity(centred[:, 0], centred[:, 1], dim=1)
        return {
            "tokens": int(tokens),
            "mse": float(error / (tokens * len(mean))),
            "nmse": float(error / square),
            "fvu": float(error / spread),
            "explained_variance": float(1 - error / spread),
            "explained_variance_beyond_known": float(1 - error / known),
            "cosine": float(self.cosine[bins].sum() / tokens),
            "cosine_centred": float(cosine_centred.mean()) if len(kept) else float("nan"),
            "l0": float(self.l0[bins].sum() / tokens),
        }

    def _kept_parts(self) -> list[Tensor]:
        return self.kept if isinstance(self.kept, list) else [self.kept]  # a tensor after ranks were joined

    def _kept_bins(self) -> list[Tensor]:
        return self.kept_bin if isinstance(self.kept_bin, list) else [self.kept_bin]
