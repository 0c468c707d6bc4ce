"""TideSAE: a TopK sparse autoencoder that knows the timestep (TIDE, arXiv 2503.07050).

    z  = TopK(ReLU(W_enc (u_mod - b_dec) + b_enc), k)
    z <- TopK(ReLU(z + W_enc (u_mod - u_mod_hat)), k)           refined, if wanted: see `refinements`
    z <- Pursuit(z), and the loss gets mean (u - u_hat_enc)^2   pursued, if wanted: see `pursuits`

u_hat_enc is what the encoder's own code decodes to: so the encoder learns, which a pursuit leaves without a gradient.
The rest stands in sae.py. Without modulation, refinement, pursuit and a known part beyond the mean this is the TopK SAE
of Gao et al. (arXiv 2406.04093), and with `budget: batch` BatchTopK (Bussmann et al., arXiv 2412.06410).
"""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels import BatchTopK, Encoded, Rule, Selected, TopK, encode
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.latent_budget import BudgetOverTime, BudgetScope, SharedThreshold
from tide_lightning.saes.pursuit import Pursuit
from tide_lightning.saes.sae import SAE, SAEOutput
from tide_lightning.tokens import Sensitivity, SiteShape, TokenBatch

_MOST_ROUNDS = 100  # each of a pursuit has a threshold, so a file must not claim billions


class TideSAE(SAE):
    """A temporal-aware TopK sparse autoencoder for one site.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        expansion_factor: latents per channel, d_sae / d_in.
        k: active latents a token: a number, or below 1 a fraction of d_sae (the paper's 0.05).
        budget: each token has k (token), or k is the mean and a batch's tokens get what they need (batch); after
            training a threshold takes the batch's place.
        refinements: how often a code is corrected by what it left over, z <- TopK(ReLU(z + W_enc (u_mod - u_mod_hat))),
            with the same weights: an unrolled iterative hard thresholding.
        pursuits: rounds in which latents are exchanged and fitted by the decoder's rows; see `Pursuit`.
        budget_over_time: how far a batch's budget goes to the times at which errors cost the denoiser most, from 0 (to
            the largest values) to 1; see `BudgetOverTime`.
        common: what all SAEs have; see `SAE`.
    """

    def __init__(
        self,
        shape: SiteShape,
        expansion_factor: float = 16,
        k: int | float = 16,
        budget: BudgetScope = "token",
        refinements: int = 0,
        pursuits: int = 0,
        budget_over_time: float = 0.0,
        **common: Any,
    ) -> None:
        super().__init__(shape, expansion_factor, k, **common)
        if budget not in get_args(BudgetScope):
            raise UserError(f"budget: there is no {budget!r}; choose one of {', '.join(get_args(BudgetScope))}")
        if not (0 <= refinements <= _MOST_ROUNDS and 0 <= pursuits <= _MOST_ROUNDS):
            raise UserError(f"refinements = {refinements}, pursuits = {pursuits}: they must be 0 to {_MOST_ROUNDS}")
        if not 0 <= budget_over_time <= 1 or (budget_over_time and budget != "batch"):
            raise UserError(
                f"budget_over_time = {budget_over_time}: give a number from 0 to 1; with budget: token only 0"
            )
        self.budget: BudgetScope = budget
        self.refinements, self.pursuits = refinements, pursuits
        self.pursuit = Pursuit(pursuits, budget == "batch") if pursuits else None
        self.threshold = SharedThreshold() if budget == "batch" else None
        self.budget_over_time = BudgetOverTime(budget_over_time, self.num_bins) if budget_over_time else None

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        own: dict[str, object] = {"budget": self.budget, "refinements": self.refinements, "pursuits": self.pursuits}
        own["budget_over_time"] = 0.0 if self.budget_over_time is None else self.budget_over_time.share
        return super().config | own

    @property
    def is_conditioned(self) -> bool:
        """Whether codes depend on the timestep."""
        return super().is_conditioned or self.budget_over_time is not None

    @property
    def asks_sensitivity(self) -> bool:
        """Whether the SAE depends on what errors do to the denoiser's loss."""
        return super().asks_sensitivity or self.budget_over_time is not None

    @torch.no_grad()
    def fit_sensitivity(self, sensitivity: Sensitivity, batch: TokenBatch) -> None:
        """Learn what errors do to the denoiser's loss, and when."""
        super().fit_sensitivity(sensitivity, batch)
        if self.budget_over_time is not None:
            self.budget_over_time.fit(sensitivity.by_time, self.known.scale)

    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        rule, backend = self._rule(frame.t, self.threshold), self.decode_backend
        read = frame.modulated(u)
        if not self.refinements:
            return encode(read, self.W_enc, self.b_enc, rule, dead, k_aux, backend, offset_D=self.b_dec)
        first = TopK(self.k)
        code = encode(read, self.W_enc, self.b_enc, first, backend=backend, offset_D=self.b_dec)
        for left in range(self.refinements, 0, -1):
            error = frame.scaled(u - self._decode_normalised(self._code(code), frame)[0])
            start = Selected(code.values, code.indices, None)
            if left > 1:
                code = encode(error, self.W_enc, None, first, backend=backend, start=start)
            else:
                code = encode(error, self.W_enc, None, rule, dead, k_aux, backend, start)
        return code

    def _pursue(self, code: SparseCode, u: Tensor, frame: Frame) -> tuple[SparseCode, list[SparseCode]]:
        if self.pursuit is None:
            return code, []
        written = (frame.modulated(u) if self.unmodulate else u) - self.b_dec
        written = written if u.requires_grad else written.detach()  # as for the decoder, without the values' gradient
        rule = partial(self._rule, frame.t)
        found: tuple[SparseCode, list[SparseCode]] = self.pursuit(code, written, self.W_dec, rule, self.decode_backend)
        return found

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        if self.pursuit is None:
            return {}
        u_hat = self._decode_normalised(self._code(encoded), frame)[0]
        return {"encoder": (u - u_hat).square().mean()}

    def _rule(self, t: Tensor | None, threshold: SharedThreshold | None) -> Rule:
        if threshold is not None:
            weight_B = None if self.budget_over_time is None else self.budget_over_time(t)
            if self.training or not threshold.is_known():
                return BatchTopK(self.k, weight_N=weight_B)
            return threshold.rule(weight_B)
        return TopK(self.k)

    @torch.no_grad()
    def follow(self, batch: TokenBatch, output: SAEOutput) -> None:
        """Learn from a training batch what a token keeps without a batch, at each selection."""
        if self.threshold is None:
            return
        thresholds = [self.threshold, *(self.pursuit.thresholds if self.pursuit else [])]
        weight_B = None if self.budget_over_time is None else self.budget_over_time(batch.t)
        for threshold, code in zip(thresholds, output.selected, strict=True):
            assert isinstance(threshold, SharedThreshold)
            values = code.values if weight_B is None else code.values * weight_B[code.tokens()].view_as(code.values)
            threshold.follow(values)
