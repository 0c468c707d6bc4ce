"""When features live: each latent's firing rate over the timestep, and from it when it is born and when it dies.

Time runs as a trajectory does, from t = 1 (noise) to t = 0 (image). A latent lives where its firing rate is at least
half of its highest; it is born in the first such bin and dies after the last.

Shapes: F latents, T bins of t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.evaluation.figures import bin_edges
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAEOutput
from tide_lightning.tokens import TokenBatch, bin_of

MIN_FIRINGS = 50
"""A latent that fired on fewer tokens has no profile to speak of."""

_HALF = 0.5


class Lifetimes:
    """Counts one site's firings [F] in T equal bins of t in [0, 1]."""

    def __init__(self, num_latents: int, num_bins: int, device: torch.device) -> None:
        self.num_bins = num_bins
        self.fired = torch.zeros(num_latents, num_bins, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(num_bins, dtype=torch.int64, device=device)

    def update(self, tokens: TokenBatch, output: SAEOutput) -> None:
        """Add a batch's tokens."""
        bin_B = bin_of(tokens.t, self.num_bins)
        self.tokens.index_add_(0, bin_B, torch.ones_like(bin_B))
        code = output.code
        cell = code.indices.flatten() * self.num_bins + bin_B[code.tokens()]
        self.fired.view(-1).index_add_(0, cell, (code.values.flatten() > 0).long())

    def compute(self) -> tuple[dict[str, Any], Tensor]:
        """The site's entry under `time` in metrics.json, and all firing rates [F, T]; call once, on every rank."""
        fired, tokens = all_reduce_sum(self.fired).cpu(), all_reduce_sum(self.tokens).cpu()
        rates = fired.double() / tokens.clamp(min=1)
        counted = fired.sum(1) >= MIN_FIRINGS
        return {"tokens": int(tokens.sum()), **lifetime_figures(rates[counted])}, rates.float()


def lives_in(rates_FT: Tensor) -> Tensor:
    """Where each latent lives [F, T]."""
    return (rates_FT >= _HALF * rates_FT.amax(1, keepdim=True)) & (rates_FT > 0)


def lifetime_figures(rates_FT: Tensor) -> dict[str, Any]:
    """Births, deaths and the living by bin of t, of latents that fire."""
    num_latents, num_bins = rates_FT.shape
    if not num_latents:
        return {"latents": 0}
    alive = lives_in(rates_FT)
    place = torch.arange(num_bins)
    born = place.where(alive, -1).amax(1)  # the noisiest bin, for t falls along the trajectory
    died = place.where(alive, num_bins).amin(1)
    centre = (place + 0.5) / num_bins
    return {
        "latents": num_latents,
        "born_at": (int(born.median()) + 1) / num_bins,
        "dies_at": int(died.median()) / num_bins,
        "mean_t": float(((rates_FT * centre).sum(1) / rates_FT.sum(1)).mean()),
        "lifetime": float(((born + 1 - died) / num_bins).mean()),
        "lives_throughout": float((alive.all(1)).double().mean()),
        "by_timestep": [
            {
                **bin_edges(b, num_bins),
                "alive": int(alive[:, b].sum()),
                "born": int((born == b).sum()),
                "died": int((died == b).sum()),
            }
            for b in range(num_bins)
        ],
    }
