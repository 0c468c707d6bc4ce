"""PerBinSAE: one SAE for each bin of t, which know nothing of each other.

    z = TopK(ReLU(W_enc[b] (u_mod - b_dec) + b_enc[b]), k),  b the bin of t

W[b] is a bin's own share of the dictionary, d_sae / num_saes rows. So at equal d_sae it has as many parameters as the
other SAEs, and its codes, over all shares, are read and steered like theirs. Each bin's own mean comes with
`known_part: mean_t` and as many `num_bins`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels import Rule, Within
from tide_lightning.saes.latent_budget import SharedThreshold
from tide_lightning.saes.tide import TideSAE
from tide_lightning.tokens import SiteShape, bin_of


class PerBinSAE(TideSAE):
    """A TopK SAE for each bin of t.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        num_saes: equal bins of t, each with its share of the latents.
        tide: what else `TideSAE` takes.
    """

    def __init__(self, shape: SiteShape, num_saes: int = 10, **tide: Any) -> None:
        super().__init__(shape, **tide)
        self.num_saes = num_saes
        if num_saes < 1 or self.d_sae // num_saes < self.k:
            raise UserError(
                f"num_saes = {num_saes}: {self.d_sae} latents must give each of them at least k = {self.k}; "
                "choose fewer or a larger expansion_factor"
            )

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        return super().config | {"num_saes": self.num_saes}

    @property
    def is_conditioned(self) -> bool:
        """Whether codes depend on the timestep."""
        return True

    def _rule(self, t: Tensor | None, threshold: SharedThreshold | None) -> Rule:
        assert t is not None
        bin_B = bin_of(t, self.num_saes)
        edges = torch.arange(self.num_saes + 1, device=bin_B.device) * self.d_sae // self.num_saes
        return Within(super()._rule(t, threshold), edges[bin_B], edges[bin_B + 1])
