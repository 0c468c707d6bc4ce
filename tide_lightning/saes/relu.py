"""ReLUSAE: the SAE with a plain ReLU and an L1 penalty (Bricken et al., 2023; Templeton et al., 2024).

    z = ReLU(W_enc (u_mod - b_dec) + b_enc)
    S = sum_i z_i ||W_dec_i||

Weighting by the decoder rows' norms leaves nothing to gain from small z and large rows, so rows are free (the authors'
update of April 2024). With `unit_norm` the rows have norm 1, as before.

With `modulation: zero` and `unit_norm` it is the SAE of DifFRACT (arXiv 2606.15796): FiLM by the timestep, a ReLU, a
linear decoder with unit rows. Theirs bounds no scale and reads u_mod without subtracting b_dec; see `FilmSAE`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from tide_lightning.kernels import Encoded, Threshold, encode
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.penalised import PenalisedSAE
from tide_lightning.tokens import SiteShape


class ReLUSAE(PenalisedSAE):
    """A ReLU and an L1 penalty.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        unit_norm: whether decoder rows have norm 1, instead of weighting the penalty by their norms.
        penalised: what SAEs with a penalty have; see `PenalisedSAE`.
    """

    def __init__(self, shape: SiteShape, unit_norm: bool = False, **penalised: Any) -> None:
        super().__init__(shape, **penalised)
        self.unit_norm = unit_norm

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        return super().config | {"unit_norm": self.unit_norm}

    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        read, rule = frame.modulated(u), Threshold(0.0)
        return encode(read, self.W_enc, self.b_enc, rule, backend=self.decode_backend, offset_D=self.b_dec)

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        activity = code.values
        if not self.unit_norm:
            activity = activity * self.W_dec.norm(dim=1)[code.indices]
        return {"sparsity": self._weighted(activity.sum(), len(u))}
