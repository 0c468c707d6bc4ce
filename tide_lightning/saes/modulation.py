"""Temporal modulation: u_mod = u * (1 + scale(t)) + shift(t)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_BOUND = 0.9  # |scale| stays below: un-modulating divides by 1 + scale


class TemporalModulation(nn.Module):
    """A light MLP from the normalised time to a bounded scale and a shift of every channel.

    It starts at zero, where a conditioned SAE equals an unconditioned one, or where `initialise` puts it.
    """

    frequencies: Tensor

    def __init__(self, d_in: int, d_hidden: int = 64) -> None:
        super().__init__()
        # Half periods over [0, 1] from 1 to 16: smooth enough for 20 bins, fine enough for adaLN's ends.
        self.register_buffer("frequencies", torch.linspace(1, 16, 16) * math.pi, persistent=False)
        self.hidden = nn.Linear(33, d_hidden)
        self.out = nn.Linear(d_hidden, 2 * d_in)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 + scale(t) and shift(t), each [B, d]; computed in float32 whatever autocast says."""
        with torch.autocast(t.device.type, enabled=False):
            raw, shift = self.out(self._features(t)).chunk(2, dim=-1)
            return 1 + _BOUND * torch.tanh(raw), shift

    def _features(self, t: Tensor) -> Tensor:
        t = t.to(self.out.weight.dtype)
        angle = t.unsqueeze(1) * self.frequencies
        return nn.functional.silu(self.hidden(torch.cat([t.unsqueeze(1), angle.sin(), angle.cos()], dim=1)))

    @torch.no_grad()
    def initialise(self, t: Tensor, scale: Tensor, shift: Tensor, ridge: float = 1e-3) -> None:
        """Regress the output layer so that the modulation follows given curves.

        Args:
            t: times [G].
            scale: what 1 is added to [G, d]; clipped to the bound.
            shift: [G, d].
            ridge: relative to the features' mean square.
        """
        raw = torch.atanh((scale / _BOUND).clamp(-0.99, 0.99))
        target = torch.cat([raw, shift], dim=1).double()
        features = self._features(t).double()
        design = torch.cat([features, torch.ones_like(features[:, :1])], dim=1)
        gram = design.mT @ design / len(t)
        gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution = torch.linalg.solve(gram, design.mT @ target / len(t))
        self.out.weight.copy_(solution[:-1].mT)
        self.out.bias.copy_(solution[-1])
