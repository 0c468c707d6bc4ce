"""MatryoshkaSAE: the first latents must reconstruct alone (Bussmann et al., arXiv 2503.17547).

    u_hat_m = W_dec[:m]^T z[:m] + b_dec                          for each prefix m of the dictionary
    loss    = mean (u - u_hat)^2 + sum over prefixes of mean (u - u_hat_m)^2 + alpha * AuxK

z is BatchTopK's, as in the paper, or whatever else `TideSAE` offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels import Encoded
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.latent_budget import BudgetScope
from tide_lightning.saes.tide import TideSAE
from tide_lightning.tokens import SiteShape


class MatryoshkaSAE(TideSAE):
    """A TopK SAE whose prefixes are SAEs too.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        prefixes: the nested dictionaries' sizes as fractions of d_sae, ascending; the whole one is not named.
        budget: each token has k (token), or a batch's tokens share theirs (batch).
        tide: what else `TideSAE` takes.
    """

    def __init__(
        self,
        shape: SiteShape,
        prefixes: Sequence[float] = (1 / 32, 3 / 32, 7 / 32, 15 / 32),
        budget: BudgetScope = "batch",
        **tide: Any,
    ) -> None:
        super().__init__(shape, budget=budget, **tide)
        self.prefixes = list(prefixes)
        self.widths = [round(fraction * self.d_sae) for fraction in prefixes]
        edges = [0, *self.widths, self.d_sae]
        if any(low >= high for low, high in pairwise(edges)):
            raise UserError(f"prefixes = {self.prefixes}: they must ascend, be above 0 and stay below 1")

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        return super().config | {"prefixes": self.prefixes}

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        errors = {}
        for width in self.widths:
            inner = code.with_values(code.values.where(code.indices < width, 0))
            u_hat = self._decode_normalised(inner, frame)[0]
            errors[f"first_{width}"] = (u - u_hat).square().mean()
        return super()._penalties(u, encoded, code, frame) | errors
