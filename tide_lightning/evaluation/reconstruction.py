"""One site's reconstruction and health on the held-out tokens: the figures, whatever the number of ranks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from tide_lightning.evaluation.figures import mean_over_bins, measured
from tide_lightning.saes import SAE, SAEOutput
from tide_lightning.saes.cost import cost_of
from tide_lightning.tokens import TokenBatch, bin_of
from tide_lightning.training.metrics import ReconstructionMetric

ALIVE_FREQUENCY = 1e-5
"""A latent is alive if it fires on more than this share of the evaluation's tokens."""

ALIVE_TOKENS = 1_000_000
"""Tokens from which on that share is a firm figure."""


_LOG10_RANGE = (-7.0, 0.0)


class SiteReconstruction:
    """Accumulates one site's figures.

    Args:
        sae: the site's SAE.
        num_bins: equal bins of t in [0, 1].
    """

    def __init__(self, sae: SAE, num_bins: int) -> None:
        device = sae.W_dec.device
        self.sums = ReconstructionMetric(sae.d_in, sae.d_sae, num_bins).to(device)
        self.sums.set_dtype(torch.float64)
        self.cosines = CentredCosine(sae.d_in, num_bins).to(device)
        self.cost = cost_of(sae)._asdict()

    def update(self, tokens: TokenBatch, output: SAEOutput) -> None:
        """Add a batch's tokens."""
        self.sums.update(tokens, output)
        self.cosines.update(tokens, output.x_hat)

    def compute(self) -> dict[str, Any]:
        """The entry of metrics.json (on every rank alike)."""
        found = self.sums.compute()
        total, bins = found["total"], found["by_timestep"]
        cosine, cosine_bins = self.cosines.compute()
        for row in bins:
            row["cosine_centred"] = cosine_bins[round(row["low"] * self.sums.num_bins)]
        health = _health(found["fired"], total["tokens"])
        l0 = {"l0_even": mean_over_bins(bins, "l0"), "l0_largest": max((row["l0"] for row in bins), default=0.0)}
        entry: dict[str, Any] = measured(
            {**total, **l0, **self.cost, "cosine_centred": cosine, **health, "by_timestep": bins}
        )
        return entry


class CentredCosine(Metric):
    """Mean cosine of x - m and x_hat - m; m is the mean of all tokens (in a bin, of the bin's).

    The mean is only known at the end, so some tokens are kept: those with the smallest hash of where they come from.
    The choice is as good as random and the same however the samples are spread over ranks.
    """

    full_state_update = False
    tokens: Tensor
    sum_x: Tensor
    pairs: list[Tensor] | Tensor
    keys: list[Tensor] | Tensor
    bins: list[Tensor] | Tensor

    def __init__(self, d_in: int, num_bins: int, num_kept: int = 8192) -> None:
        super().__init__()
        self.num_bins, self.num_kept = num_bins, num_kept
        self.add_state("tokens", torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("sum_x", torch.zeros(num_bins, d_in, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("pairs", [], dist_reduce_fx="cat")  # [n, 2, d]: x and x_hat
        self.add_state("keys", [], dist_reduce_fx="cat")
        self.add_state("bins", [], dist_reduce_fx="cat")

    def update(self, tokens: TokenBatch, x_hat: Tensor) -> None:
        """Consider a batch's tokens."""
        bins = bin_of(tokens.t, self.num_bins)
        self.tokens.index_add_(0, bins, torch.ones_like(bins, dtype=torch.float64))
        self.sum_x.index_add_(0, bins, tokens.x.double())
        keys = token_key(tokens)
        chosen = keys.argsort()[: self.num_kept]
        pairs = torch.stack([tokens.x[chosen].float(), x_hat[chosen].float()], 1)
        for state, new in ((self.pairs, pairs), (self.keys, keys[chosen]), (self.bins, bins[chosen])):
            assert isinstance(state, list)  # joined into a tensor only while results are computed
            state.append(new)
        if sum(map(len, self.keys)) > 2 * self.num_kept:
            pairs, keys, bins = self._smallest()
            self.pairs, self.keys, self.bins = [pairs], [keys], [bins]

    def compute(self) -> tuple[float, list[float]]:
        """The mean over all tokens kept, and for each bin (NaN where it is empty)."""
        pairs, _, bins = self._smallest()
        total = _mean_cosine(pairs, self.sum_x.sum(0) / self.tokens.sum())
        means = self.sum_x / self.tokens.unsqueeze(1)
        return total, [_mean_cosine(pairs[bins == b], means[b]) for b in range(self.num_bins)]

    def _smallest(self) -> tuple[Tensor, Tensor, Tensor]:
        pairs, keys, bins = (_joined(state) for state in (self.pairs, self.keys, self.bins))
        chosen = keys.argsort()[: self.num_kept]
        return pairs[chosen], keys[chosen], bins[chosen]


def token_key(tokens: TokenBatch) -> Tensor:
    """A hash of where each token comes from (sample, place, time, half), int64 [B], not negative."""
    key = tokens.sample.long()
    for part in (*tokens.position.long().unbind(1), (tokens.t.double() * 2**20).long(), tokens.half.long()):
        key = _mix(key * 1_000_003 + part)
    return _mix(key)


def _mix(key: Tensor) -> Tensor:
    for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):  # SplitMix64's
        key = (key ^ (key >> shift)) * factor
    return (key ^ (key >> 31)) & (2**63 - 1)


def _mean_cosine(pairs: Tensor, mean: Tensor) -> float:
    centred = pairs.double() - mean
    return float(torch.nn.functional.cosine_similarity(centred[:, 0], centred[:, 1], dim=1).mean())


def _joined(state: list[Tensor] | Tensor) -> Tensor:
    return state if isinstance(state, Tensor) else torch.cat(state)


def _health(fired: Tensor, num_tokens: int) -> dict[str, Any]:
    frequency = fired.double() / max(num_tokens, 1)
    logs = frequency[fired > 0].log10().clamp(*_LOG10_RANGE).cpu()
    health: dict[str, Any] = {
        "alive_fraction": float((frequency > ALIVE_FREQUENCY).double().mean()),
        "never_fired_fraction": float((fired == 0).double().mean()),
        "firing_frequency": {
            "log10_low": _LOG10_RANGE[0],
            "log10_high": _LOG10_RANGE[1],
            "latents": torch.histogram(logs, bins=28, range=_LOG10_RANGE).hist.long().tolist(),
        },
    }
    if num_tokens < ALIVE_TOKENS:
        health["alive_fraction_note"] = f"from {num_tokens} tokens; firm from {ALIVE_TOKENS} on"
    return health
