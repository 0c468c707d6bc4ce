"""Variants of TideSAE that were tried and not kept: they live here, so that the ablation's table can show them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.kernels import Encoded
from tide_lightning.saes import SparseCode, TideSAE
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.sae import SAEOutput
from tide_lightning.tokens import Sensitivity, SiteShape, TokenBatch


class EncodesActivation(TideSAE):
    """The encoder reads the whole activation, known part included; the decoder writes what the known part leaves."""

    offset: Tensor

    def __init__(self, shape: SiteShape, **arguments: Any) -> None:
        super().__init__(shape, **arguments)
        self.register_buffer("offset", torch.zeros(shape.d_in))

    def _known(self, frame: Frame) -> Tensor:
        known = frame.known / frame.s
        return known if self.metric is None else self.metric.into(known)

    @torch.no_grad()
    def fit_sensitivity(self, sensitivity: Sensitivity, batch: TokenBatch) -> None:
        """Learn the mean of what is known, too."""
        super().fit_sensitivity(sensitivity, batch)
        self.offset.copy_(self._known(self.frame(batch.context())).mean(0))

    def _encode_normalised(self, u: Tensor, frame: Frame, *arguments: Any) -> Encoded:
        return super()._encode_normalised(u + self._known(frame) - self.offset, frame, *arguments)


class WeighsErrors(TideSAE):
    """The loss counts a token's error by what errors cost the denoiser at its t, as a shared budget counts values."""

    t: Tensor

    def forward(self, batch: TokenBatch, *arguments: Any, **named: Any) -> SAEOutput:
        """As ever, but in training the error is weighted."""
        self.t = batch.t
        output = super().forward(batch, *arguments, **named)
        if not self.training:
            return output
        return output._replace(u=self._weighted(output.u), u_hat=self._weighted(output.u_hat))

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        if self.pursuit is None:
            return {}
        u_hat = self._decode_normalised(self._code(encoded), frame)[0]
        return {"encoder": self._weighted(u - u_hat).square().mean()}

    def _weighted(self, error: Tensor) -> Tensor:
        if self.budget_over_time is None:
            return error
        weight_B: Tensor = self.budget_over_time(self.t)
        return error * weight_B.unsqueeze(1)


class _MixedFrame(Frame):
    """A frame whose modulation also mixes channels."""

    mixing: Tensor

    def scaled(self, error: Tensor) -> Tensor:
        return super().scaled(error) + torch.einsum("bd,bde->be", error, self.mixing)


class MixesChannels(TideSAE):
    """The modulation adds a map of rank 16 that depends on t: u_mod = u (1 + scale) + (u A * gate(t)) B + shift."""

    def __init__(self, shape: SiteShape, rank: int = 16, **arguments: Any) -> None:
        super().__init__(shape, **arguments)
        self.read = nn.Parameter(torch.randn(shape.d_in, rank) / shape.d_in**0.5)
        self.written = nn.Parameter(torch.randn(rank, shape.d_in) / rank**0.5)
        last = nn.Linear(64, rank)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.gate = nn.Sequential(nn.Linear(16, 64), nn.SiLU(), last)

    def frame(self, context: dict[str, Tensor | None]) -> Frame:
        """The frame with the mixing of its times."""
        frame, t = _MixedFrame(*super().frame(context)), context["timestep"]
        assert t is not None
        angles = t.unsqueeze(1) * torch.pi * torch.arange(1, 9, device=t.device)
        gate_BR = self.gate(torch.cat([angles.sin(), angles.cos()], 1))
        frame.mixing = self.read @ (gate_BR.unsqueeze(2) * self.written)
        return frame
