"""Erasure: latents that stand for a concept, turned against it; and what that costs other prompts.

The latents are those that the finder finds by two lists of prompts, with the concept and without, and that hardly fire
without it. What is done to them is the same always: their values are multiplied by a factor of 0 (switched off) or
below (turned against the concept), wherever they fire. A prompt that does not call them up is drawn as before, to the
bit.

Shapes: N prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle, islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, sample_images
from tide_lightning.explore.finder import Callback, Found, rank
from tide_lightning.intervene.edits import Edit
from tide_lightning.intervene.recording import walk_prompts, watch
from tide_lightning.intervene.steering import steer
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


@torch.no_grad()
def find_concept(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    suppress: Sequence[str],
    keep: Sequence[str],
    noise: Tensor,
    *,
    count: int = 16,
    least_share: float = 0.8,
    num_inference_steps: int = 10,
    guidance_scale: float = 4.5,
    callback: Callback | None = None,
) -> list[Found]:
    """Each site's latents that the finder finds for the concept and that hardly fire without it.

    Lists of prompts are repeated where they are shorter than the noise. At most `count` latents of a site are taken, of
    whose activity over both lists `least_share` falls to the concept's.
    """
    settings: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "callback": callback,
    }
    lists = [list(islice(cycle(some), len(noise))) for some in (suppress, keep)]
    seen = [watch(denoiser, saes, walk_prompts(some, noise, **settings)) for some in lists]
    found = [one for site in saes for one in rank({site: saes[site]}, *seen, top=count)]
    return [one for one in found if one.share >= least_share]


def erasing(latents: Sequence[Found], factor: float, window: tuple[float, float] = (0.0, 1.0)) -> list[Edit]:
    """The edits that multiply a concept's latents, in the prompt's half of each forward: it is the words that count."""
    return [Edit(one.site, one.latent, "scale", factor, window, half="conditional") for one in latents]


@torch.no_grad()
def erase(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    latents: Sequence[Found],
    factors: Sequence[float],
    suppress: Sequence[str],
    keep: Sequence[str],
    noise: Tensor,
    judge: Judge,
    *,
    window: tuple[float, float] = (0.0, 1.0),
    num_inference_steps: int = 20,
    guidance_scale: float = 4.5,
    callback: Callback | None = None,
) -> list[Erased]:
    """What each factor does to both lists of prompts; the first entry is without erasure.

    Noise is one for each prompt of both lists, `window` low and high t of the steps in which is erased.
    """
    prompts = [*suppress, *keep]
    settings: dict[str, Any] = {
        "num_inference_steps": num_inference_steps,
        "guidance_scale": guidance_scale,
        "callback": callback,
    }
    original = sample_images(denoiser, prompts, initial_noise=noise, **settings)
    found = []
    for factor in (1.0, *factors):
        if factor == 1:
            images = original
        else:
            with steer(denoiser, saes, erasing(latents, factor, window)) as erased:
                images = sample_images(erased, prompts, initial_noise=noise, **settings)
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
