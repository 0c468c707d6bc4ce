"""Pushing a site's tokens along a guided trajectory, by a latent or by a direction, image by image.

A push by a latent is x + decode(z + a e_i) - decode(z): what the SAE does not explain stays as it is, and since
decoding is affine in the code, the difference is the same whatever z. A scale of each t's own does not change its
length (`SAE.unit_at`).

Shapes: N images, T tokens, D channels, B tokens of all forwards of a step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser, sample
from tide_lightning.intervene.splicing import Predictor, splice_denoiser
from tide_lightning.intervene.steering import effect
from tide_lightning.saes import SAE
from tide_lightning.tokens import TokenBatch


@dataclass(frozen=True)
class Push:
    """What is added to one site's tokens, for each image of a batch.

    Args:
        latent: whose value is raised [N].
        amount: by how much [N].
        vector: added besides [N, D].
        tokens: where [N, T].
    """

    latent: Tensor
    amount: Tensor
    vector: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.latent)

    def select(self, index: slice) -> Push:
        """The pushes of some images."""
        return Push(*(getattr(self, field.name)[index] for field in fields(self)))

    @staticmethod
    def concatenate(parts: list[Push]) -> Push:
        """All pushes in order."""
        return Push(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Push)))


@torch.no_grad()
def effect_norms(sae: SAE, latents_L: Tensor, reference: TokenBatch) -> Tensor:
    """How far a push by 1 of each latent moves an activation, averaged over some tokens [L]."""
    num = len(reference)
    repeated = reference.select(torch.arange(num, device=latents_L.device).repeat(len(latents_L)))
    latents = latents_L.repeat_interleave(num)
    moved = effect(sae, latents.unsqueeze(1), sae.unit_at(repeated.t), repeated)
    norms: Tensor = moved.norm(dim=1).reshape(-1, num).mean(1)
    return norms


def pushed_by(sae: SAE, push: Push, window: tuple[float, float]) -> Predictor:
    """The site's tokens with the push, in forwards whose rows are the images once or (under guidance) twice."""

    def predict(tokens: TokenBatch) -> Tensor:
        num_tokens = push.tokens.shape[1]
        image = (torch.arange(len(tokens), device=tokens.x.device) // num_tokens) % len(push)
        inside = (tokens.t >= window[0]) & (tokens.t <= window[1])
        on = inside & push.tokens.flatten().repeat(len(tokens) // push.tokens.numel())
        values = push.amount[image, None] * sae.unit_at(tokens.t)
        added = effect(sae, push.latent[image, None], values, tokens) + push.vector[image]
        return torch.where(on.unsqueeze(1), tokens.x + added, tokens.x)

    return predict


@torch.no_grad()
def pushed_images(
    denoiser: Denoiser,
    site: str,
    sae: SAE,
    push: Push | None,
    prompts: list[str],
    noise: Tensor,
    *,
    window: tuple[float, float],
    num_inference_steps: int,
    guidance_scale: float,
    batch_size: int = 32,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Images [N, 3, H, W] of guided trajectories from the given noise; without a push, the denoiser's own."""
    images = []
    for start in range(0, len(prompts), batch_size):
        some = slice(start, start + batch_size)
        runner = denoiser
        if push is not None:
            predictor = pushed_by(sae, push.select(some), window)
            runner = splice_denoiser(denoiser, {site: predictor}, {site: sae.shape})
        latents = sample(
            runner,
            prompts[some],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            initial_noise=noise[some],
        )
        images.append(denoiser.decode_latents(latents))
        if progress is not None:
            progress(len(latents))
    return torch.cat(images)
