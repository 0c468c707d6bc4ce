"""Erasure: latents that stand for a concept, turned against it; and what that costs other prompts.

The latents are found by two lists of prompts, with the concept and without. What is done to them is the same always:
their values are multiplied by a factor of 0 (switched off) or below (turned against the concept), wherever they fire.
A prompt that does not call them up is drawn as before, to the bit.

Shapes: N prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.explore.steering.edits import Edit
from tide_lightning.explore.steering.handles import Handle, find_handles
from tide_lightning.explore.steering.steer import steer
from tide_lightning.saes import SAE

Judge = Callable[[Tensor], Tensor]
"""The chance [N] that each of images [N, 3, H, W] in [-1, 1] shows the concept."""


class Erased(NamedTuple):
    """One factor's outcome.

    Fields:
        factor: by which values were multiplied; 1 leaves all as it is.
        suppressed: images of the prompts that call for the concept.
        kept: images of the other prompts.
        shown: share of the suppressed in which the judge sees the concept.
        shown_elsewhere: the same of the kept.
        changed: how far pixels of the kept moved, as a share of the range.
        unrelated: how far two of the kept's originals are apart: what a change is to be compared with.
    """

    factor: float
    suppressed: Tensor
    kept: Tensor
    shown: float
    shown_elsewhere: float
    changed: float
    unrelated: float


def find_concept(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    suppress: Sequence[str],
    keep: Sequence[str],
    noise: Tensor,
    *,
    count: int = 4,
    num_inference_steps: int = 10,
    guidance_scale: float = 4.5,
) -> list[Handle]:
    """The latents of all sites by which prompts with the concept differ from those without.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        suppress: prompts that call for the concept.
        keep: others; each list is repeated where it is the shorter.
        noise: standard normal [N, *latent_shape], as many as pairs are to be compared.
        count: how many.
        num_inference_steps: of the trajectories.
        guidance_scale: of the trajectories.
    """
    wanted, unwanted = (
        [prompts[number % len(prompts)] for number in range(len(noise))] for prompts in (suppress, keep)
    )
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    return find_handles(denoiser, saes, wanted, unwanted, noise, count=count, **settings)  # type: ignore[arg-type]


def erasing(handles: Sequence[Handle], factor: float, window: tuple[float, float] = (0.0, 1.0)) -> list[Edit]:
    """The edits that multiply a concept's latents: in both halves, or guidance would blow the difference up."""
    return [Edit(one.site, one.latent, "scale", factor, window) for one in handles]


@torch.no_grad()
def erase(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    handles: Sequence[Handle],
    factors: Sequence[float],
    suppress: Sequence[str],
    keep: Sequence[str],
    noise: Tensor,
    judge: Judge,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    num_inference_steps: int = 20,
    guidance_scale: float = 4.5,
) -> list[Erased]:
    """What each factor does to both lists of prompts; the first entry is without erasure.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        handles: the concept's latents.
        factors: what their values are multiplied by.
        suppress: prompts that call for the concept.
        keep: others.
        noise: standard normal, one for each prompt of both lists.
        judge: sees the concept in images.
        window: low and high t of the steps in which is erased.
        num_inference_steps: of the trajectories.
        guidance_scale: of the trajectories.
    """
    prompts = [*suppress, *keep]
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}

    def draw(by: Denoiser) -> Tensor:
        return denoiser.decode_latents(sample(by, prompts, initial_noise=noise, **settings))  # type: ignore[arg-type]

    original = draw(denoiser)
    found = []
    for factor in (1.0, *factors):
        if factor == 1:
            images = original
        else:
            with steer(denoiser, saes, erasing(handles, factor, window)) as erased:
                images = draw(erased)
        shown = judge(images).float().cpu() > 0.5
        kept, before = images[len(suppress) :], original[len(suppress) :]
        found.append(
            Erased(
                factor,
                images[: len(suppress)],
                kept,
                float(shown[: len(suppress)].double().mean()),
                float(shown[len(suppress) :].double().mean()),
                float((kept - before).abs().mean()) / 2,
                float((before - before.roll(1, 0)).abs().mean()) / 2,
            )
        )
    return found
