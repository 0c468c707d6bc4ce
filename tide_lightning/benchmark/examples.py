"""A ground's labelled images as the denoiser's tokens see them: who covers which patch, what is true of it.

Shapes: N images of H x W pixels, T tokens (latent patches), U units an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser
from tide_lightning.errors import UserError
from tide_lightning.grounds import ABSENT, Factor, Ground, Split
from tide_lightning.threads import side_by_side

_COVERED = 0.5  # of a patch, from which on it belongs to a unit or mask


@dataclass(frozen=True)
class Examples:
    """Labelled images with everything that is known about them.

    Args:
        ground: whose.
        split: which keeps its noise apart from others'.
        latents: clean latents [N, *latent_shape].
        prompts: one each.
        conditioning: theirs.
        weights: how a unit's tokens are averaged [N, U, T]; zero for a unit that is not there to be seen.
        labels: the number of each factor's value in each unit [N, U], ABSENT where it does not have one.
        maps: means in each patch of numbers known of every pixel [N, T].
        masks: whether at least half of a patch is covered [N, T].
    """

    ground: Ground
    split: Split
    latents: Tensor
    prompts: list[str]
    conditioning: Conditioning
    weights: Tensor
    labels: Mapping[str, Tensor]
    maps: Mapping[str, Tensor]
    masks: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.prompts)

    def silent(self, denoiser: Denoiser) -> Examples:
        """The same images, of which the denoiser is told nothing."""
        return replace(self, conditioning=denoiser.encode_prompts([""] * len(self)))

    def units(self, factors: Mapping[str, Factor], repeats: int = 1) -> tuple[Tensor, Tensor]:
        """Which of the units some factors are read from [M], and which values each of those has [M, V].

        Args:
            factors: that are read from the same units (`groups`).
            repeats: how often the images come one after another, as where several bins of t are joined.
        """
        has = self.labels[next(iter(factors))].flatten() != ABSENT
        units = has.nonzero().squeeze(1)
        values = [F.one_hot(self.labels[name].flatten()[units], len(factor.values)) for name, factor in factors.items()]
        shift = torch.arange(repeats, device=units.device).unsqueeze(1) * len(has)
        return (units + shift).flatten(), torch.cat(values, 1).bool().repeat(repeats, 1)


def groups(factors: Mapping[str, Factor]) -> list[dict[str, Factor]]:
    """Factors that are read from the same part of an image."""
    parts = dict.fromkeys(factor.read_from for factor in factors.values())
    return [{name: factor for name, factor in factors.items() if factor.read_from == part} for part in parts]


def questions(factors: Mapping[str, Factor]) -> list[tuple[str, str]]:
    """Factors' values, in the order of the columns of `Examples.units`."""
    return [(name, value) for name, factor in factors.items() for value in factor.values]


def make_examples(
    ground: Ground, denoiser: Denoiser, split: Split, count: int, seed: int, taken: frozenset[str] = frozenset()
) -> Examples:
    """The first images of a split and seed, as the denoiser sees them; see `Ground.labelled`."""
    known = ground.labelled(split, count, seed, taken)
    device = denoiser.device
    everything = torch.full((len(known.images), 1, denoiser.num_tokens), 1 / denoiser.num_tokens)
    encodings: list[Callable[[], Any]] = [
        partial(denoiser.encode_images, known.images),
        partial(denoiser.encode_prompts, known.prompts),
    ]
    latents, conditioning = side_by_side(lambda encode: encode(), encodings, device)
    return Examples(
        ground=ground,
        split=split,
        latents=latents,
        prompts=known.prompts,
        conditioning=conditioning,
        weights=(everything if known.units is None else _unit_weights(in_patches(denoiser, known.units))).to(device),
        labels={name: labels.to(device) for name, labels in known.labels.items()},
        maps={name: in_patches(denoiser, pixels).to(device) for name, pixels in known.maps.items()},
        masks={name: (in_patches(denoiser, share) >= _COVERED).to(device) for name, share in known.masks.items()},
    )


def in_patches(denoiser: Denoiser, pixels: Tensor) -> Tensor:
    """The mean in each token's patch [..., T] of pixels [..., H, W]."""
    rows, cols = denoiser.grid
    height, width = pixels.shape[-2:]
    if height % rows or width % cols:
        raise UserError(f"the benchmark cannot lay {rows} x {cols} tokens over {height} x {width} pixels")
    return F.avg_pool2d(pixels, (height // rows, width // cols)).flatten(-2)


def check_denoiser(ground: Ground, denoiser: Denoiser) -> None:
    """Refuse a denoiser of other images."""
    if denoiser.image_shape != ground.image_shape:
        raise UserError(
            f"GroundBenchmark: the images of {ground.name} are {list(ground.image_shape)}, this denoiser's "
            f"{list(denoiser.image_shape)}: name its own ground, or take the benchmark out of trainer.callbacks"
        )


def _unit_weights(share_NUT: Tensor) -> Tensor:
    """A unit's tokens are those it covers by half, or the one that it covers most."""
    inside = share_NUT >= _COVERED
    most = F.one_hot(share_NUT.argmax(2), share_NUT.shape[2]).bool() & (share_NUT > 0)
    inside = torch.where(inside.any(2, keepdim=True), inside, most).float()
    return inside / inside.sum(2, keepdim=True).clamp(min=1)
