"""MatchingPursuitSAE: latents found one after another (Costa et al., arXiv 2506.03093; in sae-lens and overcomplete).

    r = v - b_dec                                      v: what the decoder should write, u or (un-modulated) u_mod
    k times:  i = argmax W_dec r,  a = ReLU(W_dec[i] r),  z_i += a,  r -= a W_dec[i]

There is no encoder: the decoder's rows, of unit norm, are read and written. A latent may be found again, and its
amounts add up. Gradients flow through all steps, as in both libraries; which latent is the largest has none.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.kernels import Encoded
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.sae import SAE
from tide_lightning.tokens import SiteShape


class MatchingPursuitSAE(SAE):
    """A dictionary whose codes are found by matching pursuit, k steps a token.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        common: what all SAEs have; see `SAE`. There is no encoder to start, so `encoder_norm` makes no difference.
    """

    def __init__(self, shape: SiteShape, **common: Any) -> None:
        super().__init__(shape, **common)
        del self.W_enc, self.b_enc

    @property
    def dense_products(self) -> int:
        """How often a token meets all rows of the decoder until its code is found."""
        return self.k

    @property
    def readers(self) -> Tensor:
        """The decoder's rows, which read a token, too."""
        return self.W_dec

    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        left_ND = (frame.modulated(u) if self.unmodulate else u) - self.b_dec
        found_N1: list[Tensor] = []
        values_N1: list[Tensor] = []
        for _ in range(self.k):
            with torch.no_grad():
                latent_N1 = (left_ND @ self.W_dec.T).argmax(1, keepdim=True)
            row_ND = self.W_dec[latent_N1.squeeze(1)]
            amount_N1 = (left_ND * row_ND).sum(1, keepdim=True).relu()
            left_ND = left_ND - amount_N1 * row_ND
            for place, before_N1 in enumerate(found_N1):  # found again: one entry has it all, the other fires not
                again_N1 = before_N1 == latent_N1
                values_N1[place] = values_N1[place] + amount_N1.where(again_N1, 0)
                amount_N1 = amount_N1.where(~again_N1, 0)
            found_N1.append(latent_N1)
            values_N1.append(amount_N1)
        return Encoded(torch.cat(values_N1, 1), torch.cat(found_N1, 1), None, None)

    @torch.no_grad()
    def reseed(self, latents: Tensor, W_enc: Tensor, W_dec: Tensor) -> None:
        """Give latents new rows of the decoder; there are no others."""
        self.W_dec[latents] = W_dec.to(self.W_dec.dtype)
