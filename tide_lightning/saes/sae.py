"""What all sparse autoencoders of a site share; what is their own, each says at the top of its file.

    u     = (x - known) / s                        in the metric of the denoiser, if wanted: u P
    u_mod = u * (1 + scale(t)) + shift(t)
    z     = a sparse code of u_mod                 each class's own
    u_hat = W_dec^T z + b_dec                      optionally un-modulated
    x_hat = known + s * u_hat                      (u_hat P^-1)
    loss  = mean (u - u_hat)^2 + the class's own penalties + alpha * AuxK

Shapes: B tokens, D = d_in channels, F = d_sae latents.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from tide_lightning.errors import UserError
from tide_lightning.kernels import (
    AuxCode,
    DecodeBackend,
    Encoded,
    decode_with_aux,
    normalise_rows,
    project_off_rows,
)
from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.fidelity_metric import FidelityMetric
from tide_lightning.saes.frame import Frame
from tide_lightning.saes.known import KnownPart, Rung
from tide_lightning.saes.latent_budget import number_of_latents
from tide_lightning.saes.modulation import TemporalModulation
from tide_lightning.saes.pretrained import Pretrained
from tide_lightning.sharding import local_rows, norm_over_ranks
from tide_lightning.tokens import FidelityLoss, Sensitivity, SiteShape, TokenBatch, TokenContext

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
        penalties: what the SAE's loss adds to the squared error, by name and with its weight; only in training.
        selected: the codes that were selected on the way; one, unless a pursuit follows the encoder.
        aux_hat: what the dead latents alone decode to [B, D], for AuxK; None where none were named.
    """

    x_hat: Tensor
    known: Tensor
    u: Tensor
    u_hat: Tensor
    code: SparseCode
    penalties: dict[str, Tensor]
    selected: list[SparseCode]
    aux_hat: Tensor | None = None


class SAE(Pretrained):
    """A sparse autoencoder for one site: known part, modulation, both weights and decoding; subclasses encode.

    Args:
        shape: the site's sizes (filled in by the datamodule).
        expansion_factor: latents per channel, d_sae / d_in.
        k: active latents a token: a number, or below 1 a fraction of d_sae.
        encoder_norm: of the encoder's rows at the start, whose directions are the decoder's.
        known_part: what is subtracted before encoding: mean, mean_t, mean_t_position, input_token; previous_step, for
            trajectories; or noise_token, for reading features only.
        num_bins: bins of t in which the known part is estimated.
        scale_by_timestep: whether what is left is scaled by one number, or by one for each bin of t.
        modulation: none, zero (starts as none) or adaln (starts at the denoiser's own, where it has one).
        unmodulate: whether the decoder's output is divided by 1 + scale(t) after subtracting shift(t).
        fidelity_weight: how far errors are measured by what they do to the denoiser's loss, from 0 (not) to 1 (only);
            see `FidelityMetric`.
        fidelity_loss: plain, or relative to the denoiser's mean loss at each t, so that all times count alike.
        decode_backend: how sparse codes are decoded; auto chooses by a measured crossover.
        d_sae: number of latents, given in place of expansion_factor.
    """

    b_enc: nn.Parameter
    b_dec: nn.Parameter
    unit_norm = True
    """Whether the decoder's rows are kept at unit norm."""
    has_fixed_sizes = True
    """Whether the sizes of a training step's tensors are known before it: not where whatever exceeds a bound counts."""
    refinements = 0
    """How often a code is corrected by what it left over."""
    pursuits = 0
    """How often its latents are exchanged by the decoder's rows."""

    def __init__(
        self,
        shape: SiteShape,
        expansion_factor: float = 16,
        k: int | float = 16,
        encoder_norm: float = 1.0,
        known_part: Rung = "input_token",
        num_bins: int = 20,
        scale_by_timestep: bool = False,
        modulation: Modulation = "none",
        unmodulate: bool = False,
        fidelity_weight: float = 0.0,
        fidelity_loss: FidelityLoss = "plain",
        decode_backend: DecodeBackend = "auto",
        d_sae: int | None = None,
    ) -> None:
        super().__init__()
        if modulation not in get_args(Modulation):
            raise UserError(f"modulation: there is no {modulation!r}; choose one of {', '.join(get_args(Modulation))}")
        if encoder_norm <= 0:
            raise UserError(f"encoder_norm = {encoder_norm}: it must be above 0")
        if not 0 <= fidelity_weight <= 1:
            raise UserError(f"fidelity_weight = {fidelity_weight}: give a number from 0 to 1")
        if fidelity_loss not in get_args(FidelityLoss):
            raise UserError(
                f"fidelity_loss: there is no {fidelity_loss!r}; choose one of {', '.join(get_args(FidelityLoss))}"
            )
        if d_sae is not None:
            if d_sae < 1:
                raise UserError(f"d_sae = {d_sae}: give a number of latents from 1 on")
            expansion_factor = d_sae / shape.d_in
        self.shape = shape
        self.d_in, self.d_sae = shape.d_in, round(shape.d_in * expansion_factor)
        _check_memory(self.d_sae, self.d_in)
        self.k = number_of_latents(k, self.d_sae, "k")
        self.expansion_factor, self.encoder_norm = expansion_factor, encoder_norm
        self.num_bins, self.scale_by_timestep = num_bins, scale_by_timestep
        self.modulation_start: Modulation = modulation
        self.unmodulate, self.fidelity_weight = unmodulate, fidelity_weight
        self.fidelity_loss: FidelityLoss = fidelity_loss
        self.decode_backend: DecodeBackend = decode_backend

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
            "encoder_norm": self.encoder_norm,
            "known_part": self.known.rung,
            "num_bins": self.num_bins,
            "scale_by_timestep": self.scale_by_timestep,
            "modulation": self.modulation_start,
            "unmodulate": self.unmodulate,
            "fidelity_weight": self.fidelity_weight,
            "fidelity_loss": self.fidelity_loss,
            "decode_backend": self.decode_backend,
        }

    @property
    def dense_products(self) -> int:
        """How often a token meets all rows of the encoder or the decoder until its code is found."""
        return 1 + self.refinements + self.pursuits

    @property
    def is_conditioned(self) -> bool:
        """Whether codes depend on the timestep."""
        return self.modulation is not None or self.known.rung != "mean"

    def forward(self, batch: TokenBatch, dead: Tensor | None = None, k_aux: int | None = None) -> SAEOutput:
        """Encode and decode a batch of the site's tokens.

        Args:
            batch: the tokens.
            dead: int64, the latents that did not fire for long, in order; AuxK, where the SAE has it, lets them
                explain the error alone.
            k_aux: how many of them try to explain a token's error; half of d_in unless given.
        """
        frame = self.frame(batch.context)
        u = self._normalise(batch.x, frame)
        encoded = self._encode_normalised(u, frame, dead, k_aux or max(1, self.d_in // 2))
        first = self._code(encoded)
        code, pursued = self._pursue(first, u, frame)
        u_hat, aux_hat = self._decode_normalised(code, frame, encoded.aux)
        penalties = {}
        if self.training:
            with torch.autocast(u.device.type, enabled=False):
                penalties = self._penalties(u, encoded, code, frame)
        x_hat = self._denormalise(u_hat, frame)
        return SAEOutput(x_hat, frame.known, u, u_hat, code, penalties, [first, *pursued], aux_hat)

    def encode(self, x: Tensor, context: TokenContext | Tensor | None = None) -> SparseCode:
        """The active latents of activations x [B, D].

        Args:
            x: the activations.
            context: what else is known of their tokens (`TokenBatch.context`), or their times t [B] alone, 1 being pure
                noise. A conditioned SAE cannot encode without: that is an error, never a silent default.
        """
        frame = self.frame(context)
        u = self._normalise(x, frame)
        return self._pursue(self._code(self._encode_normalised(u, frame)), u, frame)[0]

    def decode(self, code: SparseCode, context: TokenContext | Tensor | None = None) -> Tensor:
        """The activations [B, D] that a code stands for, in the activation's own units; `context` as for `encode`."""
        frame = self.frame(context)
        return self._denormalise(self._decode_normalised(code, frame)[0], frame)

    def added(self, code: SparseCode, context: TokenContext | Tensor | None = None) -> Tensor:
        """What a code adds to an activation [B, D], whatever else is in it: decoding is affine."""
        silent = code.with_values(torch.zeros_like(code.values))
        return self.decode(code, context) - self.decode(silent, context)

    def unit_at(self, t: Tensor) -> Tensor:
        """The value by which a latent moves an activation as far as one of 1 does on average [B, 1].

        What is left is scaled by s, perhaps another one at each t; the same value then moves an activation by s as far.
        """
        unit = self.known.scale.square().mean().sqrt() / self.known.scale_at(t)
        return unit.expand(len(t), 1)

    def amounts(self, code: SparseCode, t: Tensor) -> Tensor:
        """The values of a code's entries [Z] in the unit that moves activations as far at every t."""
        return code.values.flatten().float() / self.unit_at(t)[code.tokens(), 0]

    def frame(self, context: TokenContext | Tensor | None) -> Frame:
        """How tokens of a context are seen: without what is known, scaled, modulated."""
        context = TokenContext.of(context)
        if context is None and self.is_conditioned:
            raise ValueError("this SAE depends on the time: pass a context, or times t [B] where 1 is pure noise")
        t = None if context is None else context.t
        with torch.autocast(self.W_dec.device.type, enabled=False):
            known, s = self.known(context), self.known.scale_at(t)
        if self.modulation is None or t is None:
            return Frame(t, known, s)
        return Frame(t, known, s, *self.modulation(t))

    @abstractmethod
    def _encode_normalised(self, u: Tensor, frame: Frame, dead: Tensor | None = None, k_aux: int = 0) -> Encoded:
        """What the encoder says of normalised tokens, and of the dead latents alone where AuxK is part of the loss."""

    def _code(self, encoded: Encoded) -> SparseCode:
        """The encoder's code."""
        return SparseCode(encoded.values.to(self.W_dec.dtype), encoded.indices, self.d_sae, encoded.row_pointer)

    def _pursue(self, code: SparseCode, u: Tensor, frame: Frame) -> tuple[SparseCode, list[SparseCode]]:
        """The code that is decoded, and those that were selected on the way from the encoder's."""
        return code, []

    def _penalties(self, u: Tensor, encoded: Encoded, code: SparseCode, frame: Frame) -> dict[str, Tensor]:
        """What the loss adds to the mean squared error of u, by name and with its weight."""
        return {}

    def follow(self, batch: TokenBatch, output: SAEOutput) -> None:
        """Learn from a training batch what is no parameter; belongs after each forward in training."""

    @property
    def readers(self) -> Tensor:
        """The rows [F, D] by which a token is read: the encoder's."""
        return self.W_enc

    @torch.no_grad()
    def reseed(self, latents: Tensor, W_enc: Tensor, W_dec: Tensor) -> None:
        """Give latents new rows; what else they have starts anew."""
        self.W_enc[latents] = W_enc.to(self.W_enc.dtype)
        self.W_dec[latents] = W_dec.to(self.W_dec.dtype)
        self.b_enc[latents] = 0

    def by_latent(self) -> list[nn.Parameter]:
        """The parameters that have one row for each latent."""
        return [parameter for parameter in self.parameters(recurse=False) if parameter is not self.b_dec]

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

    def _decode_normalised(
        self, code: SparseCode, frame: Frame, aux: AuxCode | None = None
    ) -> tuple[Tensor, Tensor | None]:
        decoded, aux_hat = decode_with_aux(
            code.values, code.indices, self.W_dec, aux, code.row_pointer, backend=self.decode_backend
        )
        u_hat = decoded.to(self.b_dec.dtype) + self.b_dec
        return frame.unmodulated(u_hat) if self.unmodulate else u_hat, aux_hat

    @property
    def asks_sensitivity(self) -> bool:
        """Whether the SAE depends on what errors do to the denoiser's loss."""
        return self.metric is not None

    @torch.no_grad()
    def fit_sensitivity(self, sensitivity: Sensitivity, batch: TokenBatch) -> None:
        """Learn what errors do to the denoiser's loss; belongs after the known part was fitted."""
        if self.metric is not None:
            frame = self.frame(batch.context)
            self.metric.fit(sensitivity.matrix, frame.normalised(batch.x.to(self.W_dec.dtype)))

    @torch.no_grad()
    def normalise_decoder(self) -> None:
        """Give every decoder row unit norm, unless they are free; belongs after each optimiser step."""
        if self.unit_norm:
            normalise_rows(local_rows(self.W_dec))

    @torch.no_grad()
    def project_decoder_gradient(self) -> Tensor:
        """Remove each row's gradient along the row, which normalisation would undo; belongs before the step.

        Returns:
            The norm of what is left of the gradient.
        """
        if self.W_dec.grad is None:
            return self.W_dec.new_zeros(())
        gradient = local_rows(self.W_dec.grad)
        left = project_off_rows(gradient, local_rows(self.W_dec)) if self.unit_norm else gradient.norm()
        return norm_over_ranks(left, self.W_dec)


def _check_memory(d_sae: int, d_in: int) -> None:
    """Refuse what the machine's memory cannot hold, before it is asked for."""
    weights, memory = 2 * 4 * d_sae * d_in, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if weights > memory and torch.get_default_device().type != "meta":
        raise UserError(
            f"{d_sae:,} latents of {d_in} channels are {weights / 1e9:,.0f} GB of weights, this machine has "
            f"{memory / 1e9:,.0f} GB of memory: lower expansion_factor (or d_sae)"
        )
