"""What is done to a latent, where and when."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, Site
from tide_lightning.errors import UserError
from tide_lightning.intervene.region import Region
from tide_lightning.intervene.splicing import why_not
from tide_lightning.saes import SAE

Operation = Literal["add", "scale", "clamp", "ablate", "invert"]
"""z + amount, z * amount, amount itself, 0, -z."""

Halves = Literal["both", "conditional", "unconditional"]
"""The halves of a guided forward that an edit reaches; without guidance all is conditional."""

Mode = Literal["delta", "replace"]
"""x + decode(z') - decode(z), which keeps what the SAE does not explain; or decode(z')."""


@dataclass(frozen=True)
class Edit:
    """One change of one latent.

    Args:
        site: whose SAE.
        latent: its number; for each image of a batch its own, if a tensor [N].
        operation: what becomes of its value z.
        amount: of `add`, `scale` and `clamp`; for each image of a batch its own, if a tensor [N]. What is added or
            clamped to moves tokens as far at every t, also where each t has a scale of its own (`SAE.unit_at`).
        window: of t, from low to high, both included; 1 is pure noise, where a trajectory begins.
        region: the part of the image; everywhere unless given. A tensor says so for every token, [T] or [N, T].
        half: of a guided forward.
    """

    site: str
    latent: int | Tensor
    operation: Operation = "add"
    amount: float | Tensor = 0.0
    window: tuple[float, float] = (0.0, 1.0)
    region: Region | Tensor | None = None
    half: Halves = "both"

    def __post_init__(self) -> None:
        _check_choice("operation", self.operation, get_args(Operation))
        _check_when(self.window, self.half)
        if isinstance(self.latent, Tensor) and self.reads:
            raise ValueError(f"{self.operation}: a latent for each image can only be added to")

    def changed(self, values: Tensor, amount: Tensor | float, unit: Tensor) -> Tensor:
        """What becomes of the latent's values, an amount of 1 being so much of them."""
        if self.operation == "add":
            return values + amount * unit
        if self.operation == "scale":
            return values * amount
        if self.operation == "clamp":
            return values.new_zeros(values.shape) + amount * unit
        return values * 0 if self.operation == "ablate" else -values

    @property
    def reads(self) -> bool:
        """Whether the effect depends on the latent's value."""
        return self.operation != "add"


@dataclass(frozen=True)
class Shift:
    """A vector added to a site's tokens: a direction that need not be any latent's.

    Args:
        site: where; it has an SAE.
        vector: what is added, in the activation's own units [D]; or one for each image [N, D].
        window: as of an edit.
        region: as of an edit.
        half: as of an edit.
    """

    site: str
    vector: Tensor
    window: tuple[float, float] = (0.0, 1.0)
    region: Region | Tensor | None = None
    half: Halves = "both"

    def __post_init__(self) -> None:
        _check_when(self.window, self.half)


def _check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise UserError(f"{name}: there is no {value!r}; choose one of {', '.join(choices)}")


def _check_when(window: tuple[float, float], half: str) -> None:
    _check_choice("half", half, get_args(Halves))
    low, high = window
    if not 0 <= low <= high <= 1:
        raise UserError(
            f"window {low:g},{high:g}: give two times low,high with 0 <= low <= high <= 1; a trajectory goes from"
            " t = 1 (noise) to 0"
        )


def check_edits(denoiser: Denoiser, saes: Mapping[str, SAE], edits: Sequence[Edit | Shift]) -> None:
    """Refuse what cannot be, and say what there is."""
    for edit in edits:
        if edit.site not in saes:
            near = difflib.get_close_matches(edit.site, saes, n=1)
            meant = f"; did you mean {near[0]}?" if near else ""
            raise UserError(f"site {edit.site!r} has no SAE here; there are {', '.join(saes)}{meant}")
        sae = saes[edit.site]
        if isinstance(edit, Edit):
            for latent in torch.as_tensor(edit.latent).flatten().tolist():
                if not 0 <= latent < sae.d_sae:
                    raise UserError(f"latent {latent}: site {edit.site} has latents 0 to {sae.d_sae - 1}")
        reason = why_not(sae)
        if reason:
            raise UserError(f"site {edit.site} cannot be steered: its {reason}")
        width = next(iter(denoiser.site_widths([Site.parse(edit.site)]).values()))
        if width != sae.d_in:
            raise UserError(f"site {edit.site} is {width} wide and its SAE {sae.d_in}: it belongs to another denoiser")
        if edit.half != "both" and denoiser.guidance != "classifier_free":
            raise UserError(f"half {edit.half}: this denoiser's forwards have no halves, so leave it out")
        if isinstance(edit.region, Region):
            if Site.parse(edit.site).stream != "image":
                raise UserError(
                    f"region {edit.region}: site {edit.site} carries the prompt's tokens, which lie nowhere"
                )
            edit.region.tokens(tuple(sae.shape.grid))
