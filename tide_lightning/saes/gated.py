"""GatedSAE: which latents are active and how strongly are two questions (Rajamanoharan et al., arXiv 2404.16014).

    pi   = W_enc (u_mod - b_dec) + b_enc                                the gate
    z    = 1[pi > 0] * ReLU(exp(r_mag) * (pi - b_enc) + b_mag)          the magnitude, with the gate's own rows
    S    = sum_i ReLU(pi_i)
    loss = ... + mean (u - u_gate)^2,   u_gate = W_dec^T ReLU(pi) + b_dec with the decoder held fixed

The penalty shrinks the gate's values only, and the last term keeps them useful.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.kernels import Encoded, Threshold, decode, encode
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.penalised import PenalisedSAE
from tide_lightning.tokens import SiteShape


class GatedSAE(PenalisedSAE):
    """A gate and a magnitude with shared rows; the gate is penalised.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        penalised: what SAEs with a penalty have; see `PenalisedSAE`.
    """

    def __init__(self, shape: SiteShape, **penalised: Any) -> None:
        super().__init__(shape, **penalised)
        self.r_mag = nn.Parameter(torch.zeros(self.d_sae))
        self.b_mag = nn.Parameter(torch.zeros(self.d_sae))

    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        """The open gates."""
        read, rule = frame.modulated(u), Threshold(0.0)
        return encode(read, self.W_enc, self.b_enc, rule, backend=self.decode_backend, offset_D=self.b_dec)

    def _code(self, encoded: Encoded) -> SparseCode:
        gates = super()._code(encoded)
        at = gates.indices
        magnitudes = self.r_mag[at].exp() * (gates.values - self.b_enc[at]) + self.b_mag[at]
        return gates.with_values(magnitudes.relu())

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        gates = encoded.values.to(self.W_dec.dtype)
        decoded = decode(gates, encoded.indices, self.W_dec.detach(), encoded.row_pointer, self.decode_backend)
        u_gate = decoded + self.b_dec.detach()
        if self.unmodulate:
            u_gate = frame.unmodulated(u_gate)
        return {"sparsity": self._weighted(gates.sum(), len(u)), "gate": (u - u_gate).square().mean()}

    @torch.no_grad()
    def reseed(self, latents: Tensor, W_enc: Tensor, W_dec: Tensor) -> None:
        """Give latents new rows; what else they have starts anew."""
        super().reseed(latents, W_enc, W_dec)
        self.r_mag[latents] = 0
        self.b_mag[latents] = 0
