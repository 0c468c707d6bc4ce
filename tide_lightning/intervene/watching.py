"""What latents do along trajectories: where a feature search, a slider's range and styles come from.

Shapes: N images, S steps, T tokens, F latents.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.intervene.splicing import Predictor, splice_denoiser
from tide_lightning.saes import SAE
from tide_lightning.tokens import Half, TokenBatch


class Seen(NamedTuple):
    """Images, and what latents did while they were made.

    Fields:
        latents: the images' [N, *latent_shape].
        t: of each step [S], falling.
        mean: of each site's latents over tokens [N, S, F], in the unit of edits' amounts; of the conditional half under
            guidance.
        peak: their highest at any token [N, S, F], likewise.
    """

    latents: Tensor
    t: Tensor
    mean: dict[str, Tensor]
    peak: dict[str, Tensor]


@torch.no_grad()
def watch(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    *,
    initial_noise: Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    callback: Callable[[int, Tensor, Tensor], None] | None = None,
) -> Seen:
    """Sample, and look at every latent on the way; looking changes no bit.

    Args:
        denoiser: what to sample from; steered, perhaps.
        saes: whom to look at, by site.
        prompts: one per image.
        initial_noise: standard normal [N, *latent_shape].
        num_inference_steps: length of the schedule.
        guidance_scale: of the denoiser's kind of guidance.
        callback: called with step, raw timestep and latents after each step.
    """
    means: dict[str, list[Tensor]] = {site: [] for site in saes}
    peaks: dict[str, list[Tensor]] = {site: [] for site in saes}
    times: dict[str, list[Tensor]] = {site: [] for site in saes}

    def look(site: str, sae: SAE) -> Predictor:
        def predict(tokens: TokenBatch) -> Tensor:
            some = tokens.select(tokens.half == int(Half.CONDITIONAL))
            code = sae.encode(some.x, **some.context())
            entries = (code.tokens() // (len(some) // len(prompts))) * sae.d_sae + code.indices.flatten()
            amounts = sae.amounts(code, some.t)
            blank = amounts.new_zeros(len(prompts) * sae.d_sae)
            mean = blank.index_add(0, entries, amounts) * (len(prompts) / len(some))
            means[site].append(mean.reshape(len(prompts), -1).cpu())
            peaks[site].append(blank.scatter_reduce(0, entries, amounts, "amax").reshape(len(prompts), -1).cpu())
            times[site].append(some.t[:1].cpu())
            return tokens.x

        return predict

    watched = splice_denoiser(
        denoiser, {site: look(site, sae) for site, sae in saes.items()}, {site: sae.shape for site, sae in saes.items()}
    )
    latents = sample(
        watched,
        prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        initial_noise=initial_noise,
        callback=callback,
    )
    t = torch.cat(next(iter(times.values()))) if saes else torch.zeros(0)
    return Seen(
        latents,
        t,
        {site: torch.stack(some, 1) for site, some in means.items()},
        {site: torch.stack(some, 1) for site, some in peaks.items()},
    )
