"""The variants of TideSAE that `benchmarks/ablation.py` compares, and classes that were tried and not kept."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.configs import sae_of
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


COMMON: dict[str, Any] = sae_of("quickstart")["init_args"]
"""The quickstart's."""
NO_SAMPLING = "no token sampling"
DEFAULT = "TideSAE (the default)"

VARIANTS: dict[str, dict[str, Any]] = {
    DEFAULT: {},
    "no pursuit": {"pursuits": 0},
    "three rounds of pursuit": {"pursuits": 3},
    "no refinement": {"refinements": 0},
    "neither pursuit nor refinement": {"refinements": 0, "pursuits": 0},
    "16 latents for every token": {"budget": "token"},
    "a budget blind to time": {"budget_over_time": 0.0},
    "a quarter of the budget by time": {"budget_over_time": 0.25},
    "half of the budget by time": {"budget_over_time": 0.5},
    "all of the budget by time": {"budget_over_time": 1.0},
    "one scale for all times": {"scale_by_timestep": False},
    "one scale for all times, a tenth of the budget by time": {"scale_by_timestep": False, "budget_over_time": 0.1},
    "errors weighted by time as well": {},
    "encoder reads the activation": {},
    "modulation that mixes channels": {},
    "encoder rows of norm 1 at the start": {"encoder_norm": 1.0},
    "nine tenths of the error by sensitivity": {"fidelity_weight": 0.9},
    "half of the error by sensitivity": {"fidelity_weight": 0.5},
    "plain squared error": {"fidelity_weight": 0.0},
    "all times weighted alike": {"scale_by_timestep": True},
    "modulation from zero": {"modulation": "zero"},
    "no modulation": {"modulation": "none"},
    "un-modulated decoding": {"unmodulate": True},
    "no timestep at all": {"modulation": "none", "num_bins": 1},
    "TopK, mean and scale per timestep": {
        "modulation": "none",
        "known_part": "mean_t",
        "scale_by_timestep": True,
        "fidelity_weight": 0.0,
        "refinements": 0,
        "pursuits": 0,
        "budget": "token",
        "encoder_norm": 1.0,
        "expansion_factor": 16.5,  # as many parameters as with the modulation's MLP
    },
    "known: mean": {"known_part": "mean"},
    "known: mean_t": {"known_part": "mean_t"},
    "known: mean_t_position": {"known_part": "mean_t_position"},
    "known: noise_estimate": {"known_part": "noise_estimate"},
    "known: input_window": {"known_part": "input_window"},
    "known: noise_token (leaks)": {"known_part": "noise_token"},
    NO_SAMPLING: {},
    "no AuxK, no resampling": {},
    "no pursuit, no AuxK": {"pursuits": 0},
    "no pursuit, no resampling": {"pursuits": 0},
    "no pursuit, no AuxK, no resampling": {"pursuits": 0},
}

CLASSES: dict[str, type[TideSAE]] = {
    "errors weighted by time as well": WeighsErrors,
    "encoder reads the activation": EncodesActivation,
    "modulation that mixes channels": MixesChannels,
}
"""Of variants that are no `TideSAE` of other arguments."""


class Table(NamedTuple):
    """What the SAEs of a table have in common, and how they vary.

    Fields:
        unvaried: what the SAE is called that does not vary.
        arguments: where it differs from the quickstart's.
        variants: the rows.
    """

    unvaried: str
    arguments: dict[str, Any]
    variants: list[str]


_PARTS = [
    DEFAULT,
    "no refinement",
    "16 latents for every token",
    "encoder rows of norm 1 at the start",
    "plain squared error",
    "no modulation",
    "known: mean",
]

TABLES = {
    "default": Table(
        DEFAULT,
        {},
        [
            DEFAULT,
            "one scale for all times",
            "one scale for all times, a tenth of the budget by time",
            "half of the budget by time",
            "all of the budget by time",
            "half of the error by sensitivity",
            "no refinement",
        ],
    ),
    "one_scale": Table(
        "TideSAE, one scale for all times",
        {"scale_by_timestep": False, "budget_over_time": 0.1},
        [
            DEFAULT,
            "a budget blind to time",
            "a quarter of the budget by time",
            "nine tenths of the error by sensitivity",
            *CLASSES,
        ],
    ),
    "parts": Table(
        "TideSAE, nine tenths by sensitivity, blind to time",
        {"fidelity_weight": 0.9, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            *_PARTS,
            "no pursuit",
            "three rounds of pursuit",
            "neither pursuit nor refinement",
            "half of the error by sensitivity",
            "all times weighted alike",
            *(name for name in VARIANTS if name.startswith(("no AuxK", "no pursuit, no"))),
        ],
    ),
    "without_pursuit": Table(
        "encoder-only",
        {"pursuits": 0, "fidelity_weight": 0.5, "budget_over_time": 0.0, "scale_by_timestep": False},
        [
            *_PARTS,
            "modulation from zero",
            "un-modulated decoding",
            "no timestep at all",
            "TopK, mean and scale per timestep",
            *(name for name in VARIANTS if name.startswith("known: ") and name not in _PARTS),
            NO_SAMPLING,
        ],
    ),
}
"""The tables, each in a file of its own."""
