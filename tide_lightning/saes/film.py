"""FilmSAE: DifFRACT's SAE (arXiv 2606.15796), so that theirs can be read; see `exchange.diffract`.

    u_mod = u * (1 + scale(t)) + shift(t)
    z     = ReLU(W_enc (u_mod - b_dec) + b_enc)

It is `ReLUSAE` with another modulation: their timestep embedding and MLP, and a scale without a bound.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.saes.modulation import TemporalModulation
from tide_lightning.saes.relu import ReLUSAE
from tide_lightning.tokens import SiteShape


class FilmModulation(TemporalModulation):
    """Scale and shift by an MLP over sines and cosines of the time, from 0 to 1 as their denoiser is given it."""

    def __init__(self, d_in: int, d_time: int) -> None:
        nn.Module.__init__(self)
        self.register_buffer("frequencies", _frequencies(d_time // 2), persistent=False)
        self.time_mlp = nn.Sequential(nn.Linear(d_time, d_time), nn.SiLU(), nn.Linear(d_time, d_time), nn.SiLU())
        self.mod_linear = nn.Linear(d_time, 2 * d_in)
        nn.init.zeros_(self.mod_linear.weight)
        nn.init.zeros_(self.mod_linear.bias)

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """1 + scale(t) and shift(t), each [B, d]; computed in float32 whatever autocast says."""
        with torch.autocast(t.device.type, enabled=False):
            angle = t.to(self.mod_linear.weight.dtype).unsqueeze(1) * self.frequencies
            scale, shift = self.mod_linear(self.time_mlp(torch.cat([angle.sin(), angle.cos()], 1))).chunk(2, dim=1)
            return 1 + scale, shift


def _frequencies(number: int) -> Tensor:
    """From 1 down to 1 / 10,000, evenly in logarithms."""
    return torch.exp(torch.linspace(0, -math.log(10_000), number))


class FilmSAE(ReLUSAE):
    """DifFRACT's: FiLM by the timestep, a ReLU, decoder rows of unit norm.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        d_time: sines and cosines of the time; even.
        unit_norm: whether decoder rows have norm 1.
        penalised: what `ReLUSAE` takes besides; the modulation is the class's own.
    """

    def __init__(self, shape: SiteShape, d_time: int = 256, unit_norm: bool = True, **penalised: Any) -> None:
        if d_time < 2 or d_time % 2:
            raise UserError(f"d_time = {d_time}: as many cosines as sines are needed, so give an even number")
        super().__init__(shape, unit_norm, **{**penalised, "modulation": "none"})
        self.d_time = d_time
        self.modulation = FilmModulation(self.d_in, d_time)

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        config = super().config | {"d_time": self.d_time}
        del config["modulation"]
        return config
