"""Pursuit: codes chosen anew by what the decoder writes (hard thresholding pursuit, Foucart 2011).

    z <- fit(z)                                        the best values for the latents that the encoder chose
    z <- fit(TopK(ReLU(z + W_dec (v - v_hat)), k))     a round: latents are exchanged, then fitted

v is what the decoder should write, v_hat what the code decodes to, and fit a few steps of conjugate gradients on
|v - v_hat|^2 over a token's own latents. Where the fit is good, the error does not depend on the values to first order,
so the decoder's gradient is right without theirs. They have one only where v needs it: training through the denoiser.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from tide_lightning.kernels import DecodeBackend, Rule, Selected, decode, encode, fit_values
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.latent_budget import SharedThreshold

_STEPS = 3  # of conjugate gradients, after which the values hardly move
PRODUCTS_A_FIT = 1 + 2 * _STEPS
"""Sparse products, each with all rows of a code."""


class Pursuit(nn.Module):
    """Improves codes by a decoder's rows, which have unit norm.

    Args:
        rounds: how often latents are exchanged.
        shared: whether a batch shares its budget, so that each round learns a threshold of its own.
    """

    def __init__(self, rounds: int, shared: bool) -> None:
        super().__init__()
        self.rounds = rounds
        self.thresholds = nn.ModuleList(SharedThreshold() for _ in range(rounds if shared else 0))

    def threshold(self, number: int) -> SharedThreshold | None:
        """Of a round, where there are any."""
        if not self.thresholds:
            return None
        threshold = self.thresholds[number]
        assert isinstance(threshold, SharedThreshold)
        return threshold

    def forward(
        self,
        code: SparseCode,
        written_ND: Tensor,
        W_dec: Tensor,
        rule: Callable[[SharedThreshold | None], Rule],
        backend: DecodeBackend,
    ) -> tuple[SparseCode, list[SparseCode]]:
        """The better code, and what each round selected before it was fitted."""

        def fitted(code: SparseCode) -> SparseCode:
            values = fit_values(written_ND, code.values, code.indices, W_dec, code.row_pointer, _STEPS, backend)
            return code.with_values(values)

        selected = []
        with torch.no_grad():
            for number in range(self.rounds):
                start = fitted(code)
                left_ND = written_ND - decode(start.values, start.indices, W_dec, start.row_pointer, backend)
                at = Selected(start.values, start.indices, start.row_pointer)
                found = encode(left_ND, W_dec, None, rule(self.threshold(number)), backend=backend, start=at)
                code = SparseCode(found.values.to(W_dec.dtype), found.indices, len(W_dec), found.row_pointer)
                selected.append(code)
        return fitted(code), selected
