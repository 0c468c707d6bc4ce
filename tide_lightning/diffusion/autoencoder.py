"""Images to latents and back, scaled as the denoiser knows them. Shapes: images and latents are [N, C, *space]."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.streams import sent


@torch.no_grad()
def encode(vae: Any, images: Tensor) -> Tensor:
    """Scaled latents, each image encoded by itself: the posterior's mode where there is a posterior."""
    images = sent(images, vae.device).to(vae.dtype)
    with torch.autocast(images.device.type, enabled=False):
        latents = torch.cat([_latent(vae.encode(image[None])) for image in images]).float()
    mean, factor = _scaling(vae, latents)
    return (latents - mean) * factor


@torch.no_grad()
def decode(vae: Any, latents: Tensor) -> Tensor:
    """Images in [-1, 1]."""
    mean, factor = _scaling(vae, latents)
    unscaled = latents / factor + mean
    with torch.autocast(unscaled.device.type, enabled=False):
        images: Tensor = vae.decode(unscaled.to(vae.dtype), return_dict=False)[0]
    return images.float().clamp(-1, 1)


def spatial_factor(vae: Any) -> int:
    """Image pixels along one side of a latent pixel."""
    if "scale_factor_spatial" in vae.config:
        return int(vae.config.scale_factor_spatial)
    widths = vae.config.get("block_out_channels") or vae.config["encoder_block_out_channels"]
    return 1 << (len(widths) - 1)


def _latent(encoded: Any) -> Tensor:
    latent: Tensor = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
    return latent


def _scaling(vae: Any, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
    """What is subtracted from latents, and what they are multiplied by then."""
    config = vae.config
    factor = float(config.get("scaling_factor") or 1.0)
    if config.get("latents_mean") is None or config.get("latents_std") is None:
        return float(config.get("shift_factor") or 0.0), factor
    mean, std = (
        torch.tensor(config[name], device=like.device).reshape(-1, *[1] * (like.ndim - 2))
        for name in ("latents_mean", "latents_std")
    )
    return mean, factor / std
