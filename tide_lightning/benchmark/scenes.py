"""Labelled scenes as the denoiser's tokens see them: who covers which patch, what is where, and how far away.

Shapes: N scenes, T tokens (latent patches), three units a scene: its two object slots and the whole scene.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser
from tide_lightning.errors import UserError
from tide_lightning.grounds.toybox.dataset import Scenes
from tide_lightning.grounds.toybox.factors import FACTORS, Labels
from tide_lightning.grounds.toybox.renderer import RESOLUTION
from tide_lightning.grounds.toybox.world import Split

SCENE = 2
"""The unit of a scene that holds all of its tokens; 0 and 1 are its object slots."""

GROUPS: dict[str, tuple[str, ...]] = {
    "object": ("shape", "colour"),
    "layout": ("size", "place", "distance"),
    "room": ("wall", "light"),
}
"""Factors that are read in the same way.

What an object is, is read from the tokens in its mask. Where and how large it is, from all tokens of scenes with one
object, because its mask alone would give the answer. What surrounds it, from all tokens of all scenes.
"""

_COVERED = 0.5  # of a patch, from which on it belongs to an object
_NUM_VARIANTS = 6


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes with everything that is known about them.

    Args:
        name: of the split, which keeps its noise apart from others'.
        latents: clean latents [N, *latent_shape].
        prompts: one caption each, the scene's own; empty where all of its captions were taken.
        conditioning: theirs.
        weights: how a unit's tokens are averaged [N, 3, T]; zero for an object that is not there to be seen.
        labels: factor values.
        depth: mean distance in each patch [N, T].
        mask: whether objects cover at least half of a patch [N, T].
    """

    name: str
    latents: Tensor
    prompts: list[str]
    conditioning: Conditioning
    weights: Tensor
    labels: Labels
    depth: Tensor
    mask: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def silent(self, denoiser: Denoiser) -> LabelledScenes:
        """The same scenes, of which the denoiser is told nothing."""
        return replace(self, conditioning=denoiser.encode_prompts([""] * len(self)))

    def units(self, group: str) -> tuple[Tensor, Tensor]:
        """Which of the N * 3 units a group's factors are read from [U], and what is true of each [U, V]."""
        labels, device = self.labels, self.weights.device
        place = torch.arange(len(self) * 3, device=device).view(-1, 3)
        if group == "object":
            seen = self.weights[:, :SCENE].sum(2) > 0
            units, values = place[:, :SCENE][seen], [getattr(labels, name).to(device)[seen] for name in GROUPS[group]]
        elif group == "layout":
            alone = labels.num_objects.to(device) == 1
            units = place[alone, SCENE]
            values = [getattr(labels, name).to(device)[alone, 0] for name in GROUPS[group]]
        else:
            units, values = place[:, SCENE], [getattr(labels, name).to(device) for name in GROUPS[group]]
        pairs = zip(values, GROUPS[group], strict=True)
        return units, torch.cat([F.one_hot(value, len(FACTORS[name])).bool() for value, name in pairs], 1)


def questions(group: str) -> list[tuple[str, str]]:
    """The factor values of a group, in the order of the columns of `units`."""
    return [(name, value) for name in GROUPS[group] for value in FACTORS[name]]


def labelled_scenes(
    denoiser: Denoiser, split: Split, num_scenes: int, seed: int, taken: frozenset[str] = frozenset()
) -> LabelledScenes:
    """The first scenes of a split and seed.

    Args:
        denoiser: encodes images and prompts.
        split: its rules.
        num_scenes: how many.
        seed: which; the shipped pipeline and the quickstart's SAEs have seen seed 0.
        taken: captions that must not occur again.
    """
    scenes = Scenes(split, num_scenes, seed)
    index = torch.arange(num_scenes)
    rendered = scenes.rendered(index)
    masks = object_tokens(denoiser, rendered.masks)
    side = RESOLUTION // denoiser.grid[0]
    prompts = _fresh([scenes.prompts(index, variant) for variant in range(_NUM_VARIANTS if taken else 1)], taken)
    device = denoiser.device
    return LabelledScenes(
        name=split,
        latents=denoiser.encode_images(rendered.image),
        prompts=prompts,
        conditioning=denoiser.encode_prompts(prompts),
        weights=_unit_weights(masks).to(device),
        labels=rendered.labels,
        depth=F.avg_pool2d(rendered.depth.unsqueeze(1), side).flatten(1).to(device),
        mask=(masks.sum(1) >= _COVERED).to(device),
    )


def object_tokens(denoiser: Denoiser, masks_NOHW: Tensor) -> Tensor:
    """The share of each token's patch that each object covers [N, O, T]."""
    rows, cols = denoiser.grid
    if RESOLUTION % rows or RESOLUTION % cols:
        raise UserError(f"the toybox benchmark cannot lay {rows} x {cols} tokens over {RESOLUTION} pixels")
    return F.avg_pool2d(masks_NOHW, (RESOLUTION // rows, RESOLUTION // cols)).flatten(2)


def check_toybox(denoiser: Denoiser) -> None:
    """Refuse a denoiser of other images."""
    side = int(denoiser.latent_shape[-1]) * int(denoiser.pipeline.vae_scale_factor)
    if side != RESOLUTION:
        raise UserError(
            f"ToyboxBenchmark measures denoisers of the toybox's {RESOLUTION}-pixel images, this one makes {side}: "
            "take it out of trainer.callbacks"
        )


def _unit_weights(share_NOT: Tensor) -> Tensor:
    """An object's tokens are those it covers by half, or the one that it covers most; a scene's are all."""
    inside = share_NOT >= _COVERED
    most = F.one_hot(share_NOT.argmax(2), share_NOT.shape[2]).bool() & (share_NOT > 0)
    inside = torch.where(inside.any(2, keepdim=True), inside, most).float()
    objects = inside / inside.sum(2, keepdim=True).clamp(min=1)
    everything = torch.full_like(share_NOT[:, :1], 1 / share_NOT.shape[2])
    return torch.cat([objects, everything], 1)


def _fresh(variants: list[list[str]], taken: frozenset[str]) -> list[str]:
    """Each scene's first caption that is not taken; the empty prompt, which says nothing, where all are."""
    return [
        next((caption for caption in captions if caption not in taken), "") for captions in zip(*variants, strict=True)
    ]
