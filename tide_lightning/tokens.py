"""What a datamodule tells of one site of a denoiser and an SAE reads: tokens, sizes, what errors there cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Literal, NamedTuple

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


FidelityLoss = Literal["plain", "relative"]
"""What an error is counted by: what it adds to the denoiser's loss, or that divided by the mean loss at its t."""


def bin_of(t: Tensor, num_bins: int) -> Tensor:
    """Which of equal bins of [0, 1] each time lies in."""
    return (t * num_bins).long().clamp(0, num_bins - 1)


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
    """

    d_in: int
    grid: tuple[int, ...]
    d_input: int

    @staticmethod
    def of(sizes: Mapping[str, int | Sequence[int]]) -> SiteShape:
        """From the plain values that a datamodule gives."""
        named = {name: tuple(size) if isinstance(size, Sequence) else size for name, size in sizes.items()}
        return SiteShape(**named)  # type: ignore[arg-type]


class TokenContext(NamedTuple):
    """What an SAE may know of B tokens besides their activations.

    It follows from what the denoiser is given, now and at earlier steps; `noise` alone does not. What a source or a
    stream does not have is None. `diffusion.token_context` makes it, `saes.KnownPart` reads it.

    Fields:
        t: normalised time [B], float32 in [0, 1]; 1 is pure noise.
        position: integer grid coordinates [B, axes], row first.
        input: what the denoiser was given at this place [B, p] (for an image stream the latent patch).
        noise: the true noise at this place [B, p]. Never a basis for splicing.
        trajectory_noise: the noise in `input` as the trajectory's steps so far tell it [B, p]; infinite for tokens off
            trajectories.
    """

    t: Tensor
    position: Tensor | None = None
    input: Tensor | None = None
    noise: Tensor | None = None
    trajectory_noise: Tensor | None = None

    @staticmethod
    def of(given: TokenContext | Tensor | None) -> TokenContext | None:
        """From what users give: a context, times t [B] where nothing else is known, or nothing."""
        return TokenContext(given) if isinstance(given, Tensor) else given

    @staticmethod
    def blank(shape: SiteShape, t: Tensor) -> TokenContext:
        """Tokens at times t [B] of which everything else is zero."""
        position = t.new_zeros(len(t), len(shape.grid), dtype=torch.int64)
        zeros = t.new_zeros(len(t), shape.d_input)
        return TokenContext(t, position, input=zeros, noise=zeros, trajectory_noise=zeros)

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenContext:
        """The same with every tensor changed."""
        return TokenContext(change(self.t), *(None if value is None else change(value) for value in self[1:]))

    def select(self, index: Tensor | slice) -> TokenContext:
        """Of the tokens at `index` (integers, booleans or a slice)."""
        return self.each(lambda value: value[index])


@dataclass(frozen=True)
class TokenBatch:
    """B tokens of one site, with everything that is known about where they came from.

    Args:
        x: activations [B, d].
        context: what an SAE may know of them besides.
        raw_t: the timestep as the denoiser was given it [B], float32.
        sample: which sample (image) the token belongs to [B], int64, unique over a run.
        half: a `Half` for each token [B], int8.
        source: a `Source` for each token [B], int8.
    """

    x: Tensor
    context: TokenContext
    raw_t: Tensor
    sample: Tensor
    half: Tensor
    source: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    @property
    def t(self) -> Tensor:
        """The context's: normalised time [B]."""
        return self.context.t

    @property
    def position(self) -> Tensor:
        """The context's: grid coordinates [B, axes]."""
        assert self.context.position is not None
        return self.context.position

    def each(self, change: Callable[[Tensor], Tensor]) -> TokenBatch:
        """The same with every tensor changed."""
        named = {name: change(value) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return TokenBatch(context=self.context.each(change), **named)

    def to(self, device: torch.device | str, non_blocking: bool = False) -> TokenBatch:
        """The same tokens on another device; without the host's waiting, from pinned memory."""
        return self.each(lambda value: value.to(device, non_blocking=non_blocking))

    def select(self, index: Tensor | slice) -> TokenBatch:
        """The tokens at `index` (integers, booleans or a slice)."""
        return self.each(lambda value: value[index])

    def tensors(self) -> dict[str, Tensor]:
        """What is present by name, the context's fields beside the others."""
        named = {**vars(self), **self.context._asdict()}
        return {name: value for name, value in named.items() if isinstance(value, Tensor)}

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> TokenBatch:
        """The inverse of `tensors`."""
        known = {name: value for name, value in tensors.items() if name in TokenContext._fields}
        others = {name: value for name, value in tensors.items() if name not in known}
        return TokenBatch(context=TokenContext(**known), **others)

    @staticmethod
    def concatenate(batches: Sequence[TokenBatch]) -> TokenBatch:
        """All tokens of several batches in order; a field missing from one is missing from the result.

        But tokens on trajectories keep their `trajectory_noise`: the others' is infinite then.
        """
        parts = [batch.tensors() for batch in batches]
        if any("trajectory_noise" in part for part in parts):
            parts = [{"trajectory_noise": torch.full_like(part["input"], torch.inf), **part} for part in parts]
        names = set.intersection(*map(set, parts))
        return TokenBatch.of({name: torch.cat([part[name] for part in parts]) for name in names})
