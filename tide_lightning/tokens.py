"""What a datamodule tells of one site of a denoiser and an SAE reads: tokens, sizes, what errors there cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from enum import IntEnum
from typing import NamedTuple

import torch
from torch import Tensor


class Half(IntEnum):
    """Which half of a guided forward a token comes from."""

    CONDITIONAL = 0
    UNCONDITIONAL = 1


class Source(IntEnum):
    """Which process a token's activation comes from."""

    NOISE = 0
    DENOISE = 1


class Sensitivity(NamedTuple):
    """What errors of a site's activation do to the denoiser's loss: e' M e, to second order.

    Fields:
        matrix: M [d, d], float64.
        by_time: its mean eigenvalue in equal bins of t [bins], NaN where nothing was measured.
    """

    matrix: Tensor
    by_time: Tensor


@dataclass(frozen=True)
class SiteShape:
    """The sizes of one site that an SAE is built for.

    Args:
        d_in: channels of the activation.
        grid: places of the stream's tokens, rows first (for an image stream the latent patches).
        d_input: numbers that the denoiser was given at one place.
        d_window: numbers that it was given in the window around one place; 0 where windows are not harvested.
    """

    d_in: int
    grid: tuple[int, ...]
    d_input: int
    d_window: int = 0

    @staticmethod
    def of(sizes: Mapping[str, int | Sequence[int]]) -> SiteShape:
        """From the plain values that a datamodule gives."""
        named = {name: tuple(size) if isinstance(size, Sequence) else size for name, size in sizes.items()}
        return SiteShape(**named)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TokenBatch:
    """B tokens of one site, with everything that is known about where they came from.

    Args:
        x: activations [B, d].
        t: normalised time [B], float32 in [0, 1]; 1 is pure noise.
        raw_t: the timestep as the denoiser was given it [B], float32.
        position: integer grid coordinates [B, axes], row first.
        sample: which sample (image) the token belongs to [B], int64, unique over a run.
        input: what the denoiser was given at this place [B, p] (for an image stream the latent patch).
        window: the inputs of the surrounding places, own one included [B, w * p]; None unless asked for.
        noise: the true noise at this place [B, p], where there is one. Never a basis for splicing.
        trajectory_noise: the noise in `input` as the trajectory's steps so far tell it [B, p]; None, or infinite
            for some tokens, off trajectories.
        half: a `Half` for each token [B], int8.
        source: a `Source` for each token [B], int8.
    """

    x: Tensor
    t: Tensor
    raw_t: Tensor
    position: Tensor
    sample: Tensor
    input: Tensor
    half: Tensor
    source: Tensor
    window: Tensor | None = None
    noise: Tensor | None = None
    trajectory_noise: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same tokens on another device."""
        return replace(self, **{name: value.to(device) for name, value in self.tensors().items()})

    def select(self, index: Tensor | slice) -> TokenBatch:
        """The tokens at `index` (integers, booleans or a slice)."""
        return replace(self, **{name: value[index] for name, value in self.tensors().items()})

    def context(self) -> dict[str, Tensor | None]:
        """What an SAE may know of each token besides its activation, as keywords of `encode` and `decode`."""
        return {
            "timestep": self.t,
            "position": self.position,
            "input": self.input,
            "window": self.window,
            "noise": self.noise,
            "trajectory_noise": self.trajectory_noise,
        }

    def tensors(self) -> dict[str, Tensor]:
        """The fields that are present, by name."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in named.items() if value is not None}

    @staticmethod
    def concatenate(batches: Sequence[TokenBatch]) -> TokenBatch:
        """All tokens of several batches in order; a field missing from one is missing from the result.

        But tokens on trajectories keep their `trajectory_noise`: the others' is infinite then.
        """
        if any(batch.trajectory_noise is not None for batch in batches):
            batches = [batch if batch.trajectory_noise is not None else _off_trajectories(batch) for batch in batches]
        names = set.intersection(*(set(batch.tensors()) for batch in batches))
        joined = {name: torch.cat([getattr(batch, name) for batch in batches]) for name in names}
        return TokenBatch(**joined)


def _off_trajectories(batch: TokenBatch) -> TokenBatch:
    return replace(batch, trajectory_noise=torch.full_like(batch.input, torch.inf))
