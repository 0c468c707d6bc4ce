"""TideSAE: a TopK sparse autoencoder that knows the timestep.

    u     = (x - known) / s                        in the metric of the denoiser, if wanted: u P
    u_mod = u * (1 + scale(t)) + shift(t)
    z     = TopK(ReLU(W_enc (u_mod - b_dec) + b_enc), k)           refined, if wanted: see `refinements`
    u_hat = W_dec^T z + b_dec                      optionally un-modulated
    x_hat = known + s * u_hat                      (u_hat P^-1)

Shapes: B tokens, D = d_in channels, F = d_sae latents.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.kernels import (
    AuxCode,
    BatchTopK,
    DecodeBackend,
    Encoded,
    Rule,
    TopK,
    decode_with_aux,
    encode,
    normalise_rows,
    project_off_rows,
)
from tide_lightning.saes.budget import Budget, SharedThreshold, number_of_latents
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.known import KnownPart, Rung
from tide_lightning.saes.metric import FidelityMetric
from tide_lightning.saes.modulation import TemporalModulation
from tide_lightning.saes.pretrained import Pretrained
from tide_lightning.sharding import local_rows, norm_over_ranks
from tide_lightning.tokens import SiteShape, TokenBatch

Modulation = Literal["none", "zero", "adaln"]
"""No modulation; one that starts at zero; one that starts at the denoiser's own adaLN where it fits."""


class SAEOutput(NamedTuple):
    """What a forward returns.

    Fields:
        x_hat: the reconstruction in the activation's own units [B, D].
        known: the part that was not encoded [B, D] (or [1, D]).
        u: the normalised target [B, D].
        u_hat: its reconstruction [B, D].
        code: the active latents.
        aux_hat: what the dead latents alone decode to [B, D], for AuxK; None where none were named.
    """

    x_hat: Tensor
    known: Tensor
    u: Tensor
    u_hat: Tensor
    code: SparseCode
    aux_hat: Tensor | None = None


class TideSAE(Pretrained):
    """A temporal-aware TopK sparse autoencoder for one site.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        expansion_factor: latents per channel, d_sae / d_in.
        k: active latents a token: a number, or below 1 a fraction of d_sae (the paper's 0.05).
        k_noisy: active latents at pure noise (t = 1) where they shall differ from those at t = 0; linear between.
        budget: each token has k (token), or k is the mean and a batch's tokens get what they need (batch); after
            training a threshold takes the batch's place.
        refinements: how often a code is corrected by what it left over, z <- TopK(ReLU(z + W_enc (u_mod - u_mod_hat))),
            with the same weights: an unrolled iterative hard thresholding.
        encoder_norm: of the encoder's rows at the start, whose directions are the decoder's.
        known_part: what is subtracted before encoding: mean, mean_t, mean_t_position, noise_estimate, input_token,
            input_window; or noise_token, for reading features only.
        num_bins: bins of t in which the known part is estimated.
        scale_by_timestep: whether what is left is scaled by one number, or by one for each bin of t.
        modulation: none, zero (starts as none) or adaln (starts at the denoiser's own, where it has one).
        unmodulate: whether the decoder's output is divided by 1 + scale(t) after subtracting shift(t).
        fidelity_weight: how far errors are measured by what they do to the denoiser's loss, from 0 (not) to 1 (only);
            see `FidelityMetric`.
        decode_backend: how sparse codes are decoded; auto chooses by a measured crossover.
    """

    b_enc: nn.Parameter
    b_dec: nn.Parameter

    def __init__(
        self,
        shape: SiteShape,
        expansion_factor: float = 16,
        k: int | float = 16,
        k_noisy: int | float | None = None,
        budget: Budget = "token",
        refinements: int = 0,
        encoder_norm: float = 1.0,
        known_part: Rung = "input_token",
        num_bins: int = 20,
        scale_by_timestep: bool = False,
        modulation: Modulation = "adaln",
        unmodulate: bool = False,
        fidelity_weight: float = 0.0,
        decode_backend: DecodeBackend = "auto",
    ) -> None:
        super().__init__()
        if modulation not in get_args(Modulation):
            raise UserError(f"modulation: there is no {modulation!r}; choose one of {', '.join(get_args(Modulation))}")
        if budget not in get_args(Budget):
            raise UserError(f"budget: there is no {budget!r}; choose one of {', '.join(get_args(Budget))}")
        if budget == "batch" and k_noisy is not None:
            raise UserError("k_noisy needs budget: token; with budget: batch the data decide how k depends on t")
        if refinements < 0 or encoder_norm <= 0:
            raise UserError(f"refinements = {refinements}, encoder_norm = {encoder_norm}: they must be >= 0 and > 0")
        if not 0 <= fidelity_weight <= 1:
            raise UserError(f"fidelity_weight = {fidelity_weight}: give a number from 0 to 1")
        self.shape = shape
        self.fidelity_weight = fidelity_weight
        self.expansion_factor = expansion_factor
        self.modulation_start: Modulation = modulation
        self.num_bins, self.scale_by_timestep = num_bins, scale_by_timestep
        self.unmodulate = unmodulate
        self.decode_backend: DecodeBackend = decode_backend
        self.d_in, self.d_sae = shape.d_in, round(shape.d_in * expansion_factor)
        self.k = number_of_latents(k, self.d_sae, "k")
        self.k_noisy = None if k_noisy is None else number_of_latents(k_noisy, self.d_sae, "k_noisy")

        self.budget: Budget = budget
        self.refinements, self.encoder_norm = refinements, encoder_norm

        self.threshold = SharedThreshold() if budget == "batch" else None
        self.known = KnownPart(shape, known_part, num_bins, scale_by_timestep)
        self.metric = FidelityMetric(shape.d_in, fidelity_weight) if fidelity_weight else None
        self.modulation = None if modulation == "none" else TemporalModulation(shape.d_in)
        directions = nn.functional.normalize(torch.randn(self.d_sae, self.d_in), dim=1)
        self.W_dec = nn.Parameter(directions)
        self.W_enc = nn.Parameter(encoder_norm * directions)  # tied at the start
        self.b_enc = nn.Parameter(torch.zeros(self.d_sae))
        self.b_dec = nn.Parameter(torch.zeros(self.d_in))

    @property
    def config(self) -> dict[str, object]:
        """The constructor's arguments besides `shape`, as plain values."""
        return {
            "expansion_factor": self.expansion_factor,
            "k": self.k,
            "k_noisy": self.k_noisy,
            "budget": self.budget,
            "refinements": self.refinements,
            "encoder_norm": self.encoder_norm,
            "known_part": self.known.rung,
            "num_bins": self.num_bins,
            "scale_by_timestep": self.scale_by_timestep,
            "modulation": self.modulation_start,
            "unmodulate": self.unmodulate,
            "fidelity_weight": self.fidelity_weight,
            "decode_backend": self.decode_backend,
        }

    @property
    def is_conditioned(self) -> bool:
        """Whether codes depend on the timestep."""
        return self.modulation is not None or self.known.rung != "mean" or self.k_noisy is not None

    def forward(self, batch: TokenBatch, dead: Tensor | None = None, k_aux: int | None = None) -> SAEOutput:
        """Encode and decode a batch of the site's tokens.

        Args:
            batch: the tokens.
            dead: int64, the latents that did not fire for long, in order; AuxK lets them explain the error alone.
            k_aux: how many of them try to explain a token's error; half of d_in unless given.
        """
        frame = self.frame(batch.context())
        u = self._normalise(batch.x, frame)
        encoded = self._encode_normalised(u, frame, batch.t, dead, k_aux or max(1, self.d_in // 2))
        code = self._code(encoded)
        u_hat, aux_hat = self._decode_normalised(code, frame, encoded.aux)
        return SAEOutput(self._denormalise(u_hat, frame), frame.known, u, u_hat, code, aux_hat)

    def encode(
        self,
        x: Tensor,
        timestep: Tensor | None = None,
        *,
        position: Tensor | None = None,
        input: Tensor | None = None,
        window: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> SparseCode:
        """The active latents of activations x [B, D] at normalised times `timestep` [B].

        A conditioned SAE cannot encode without the timestep: that is an error, never a silent default.
        """
        frame = self.frame(_context(timestep, position, input, window, noise))
        return self._code(self._encode_normalised(self._normalise(x, frame), frame, timestep))

    def decode(
        self,
        code: SparseCode,
        timestep: Tensor | None = None,
        *,
        position: Tensor | None = None,
        input: Tensor | None = None,
        window: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """The activations [B, D] that a code stands for, in the activation's own units."""
        frame = self.frame(_context(timestep, position, input, window, noise))
        return self._denormalise(self._decode_normalised(code, frame)[0], frame)

    def frame(self, context: dict[str, Tensor | None]) -> Frame:
        """How tokens of a context (`TokenBatch.context`) are seen: without what is known, scaled, modulated."""
        timestep = context["timestep"]
        if timestep is None and self.is_conditioned:
            raise ValueError("this SAE depends on the timestep: pass `timestep`, normalised so that 1 is pure noise")
        with torch.autocast(self.W_dec.device.type, enabled=False):
            known, s = self.known(**context), self.known.scale_at(timestep)
        if self.modulation is None or timestep is None:
            return Frame(known, s, None, None)
        return Frame(known, s, *self.modulation(timestep))

    def _normalise(self, x: Tensor, frame: Frame) -> Tensor:
        u = frame.normalised(x.to(self.W_dec.dtype))
        if self.metric is None:
            return u
        with torch.autocast(x.device.type, enabled=False):
            return self.metric.into(u)

    def _denormalise(self, u_hat: Tensor, frame: Frame) -> Tensor:
        if self.metric is not None:
            with torch.autocast(u_hat.device.type, enabled=False):
                u_hat = self.metric.back(u_hat)
        return frame.known + frame.s * u_hat

    def _encode_normalised(
        self, u: Tensor, frame: Frame, timestep: Tensor | None, dead: Tensor | None = None, k_aux: int = 0
    ) -> Encoded:
        rule, backend = self._rule(timestep), self.decode_backend
        read = frame.modulated(u)
        if not self.refinements:
            return encode(read, self.W_enc, self.b_enc, rule, dead, k_aux, backend, offset_D=self.b_dec)
        first = TopK(max(self.k, self.k_noisy or 0))
        code = encode(read, self.W_enc, self.b_enc, first, backend=backend, offset_D=self.b_dec)
        for left in range(self.refinements, 0, -1):
            error = frame.scaled(u - self._decode_normalised(self._code(code), frame)[0])
            start = code.values, code.indices
            if left > 1:
                code = encode(error, self.W_enc, None, first, backend=backend, start=start)
            else:
                code = encode(error, self.W_enc, None, rule, dead, k_aux, backend, start)
        return code

    def _rule(self, timestep: Tensor | None) -> Rule:
        if self.threshold is not None:
            return BatchTopK(self.k) if self.training or not self.threshold.is_known() else self.threshold.rule()
        if self.k_noisy is None:
            return TopK(self.k)
        assert timestep is not None
        k_B = torch.lerp(torch.full_like(timestep, self.k), torch.full_like(timestep, self.k_noisy), timestep)
        return TopK(max(self.k, self.k_noisy), k_B.round().long())

    def _code(self, encoded: Encoded) -> SparseCode:
        return SparseCode(encoded.values.to(self.W_dec.dtype), encoded.indices, self.d_sae, encoded.row_pointer)

    def _decode_normalised(
        self, code: SparseCode, frame: Frame, aux: AuxCode | None = None
    ) -> tuple[Tensor, Tensor | None]:
        decoded, aux_hat = decode_with_aux(
            code.values, code.indices, self.W_dec, aux, code.row_pointer, backend=self.decode_backend
        )
        u_hat = decoded.to(self.b_dec.dtype) + self.b_dec
        return frame.unmodulated(u_hat) if self.unmodulate else u_hat, aux_hat

    @torch.no_grad()
    def fit_metric(self, sensitivity: Tensor, batch: TokenBatch) -> None:
        """Measure errors by the denoiser's sensitivity [D, D]; belongs after the known part was fitted."""
        if self.metric is not None:
            frame = self.frame(batch.context())
            self.metric.fit(sensitivity, frame.normalised(batch.x.to(self.W_dec.dtype)))

    def follow_threshold(self, code: SparseCode) -> None:
        """Learn from a training batch's code what a token keeps without a batch; belongs after each forward."""
        if self.threshold is not None:
            self.threshold.follow(code.values)

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit norm; belongs after each optimiser step."""
        normalise_rows(local_rows(self.W_dec))

    @torch.no_grad()
    def project_decoder_gradient(self) -> Tensor:
        """Remove each row's gradient along the row, which normalisation would undo; belongs before the step.

        Returns:
            The norm of what is left of the gradient.
        """
        if self.W_dec.grad is None:
            return self.W_dec.new_zeros(())
        left = project_off_rows(local_rows(self.W_dec.grad), local_rows(self.W_dec))
        return norm_over_ranks(left, self.W_dec)


def _context(
    timestep: Tensor | None,
    position: Tensor | None,
    input: Tensor | None,
    window: Tensor | None,
    noise: Tensor | None,
) -> dict[str, Tensor | None]:
    return {"timestep": timestep, "position": position, "input": input, "window": window, "noise": noise}
