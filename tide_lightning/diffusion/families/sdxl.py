"""Stable Diffusion XL: a U-Net whose transformer blocks work at several resolutions, on grids of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.grid import Grid

_PROMPT_TOKENS = 77
_TIME_IDS = 6  # original size, corner of the crop, target size


class StableDiffusionXL(Denoiser):
    """diffusers' UNet2DConditionModel in a StableDiffusionXLPipeline."""

    component = "unet"

    @property
    def patch_shape(self) -> Grid:
        """The U-Net's convolutions see pixels; its transformer blocks see halvings of them."""
        return 1, 1

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """Both CLIPs' widths together."""
        return _PROMPT_TOKENS, int(self.config.cross_attention_dim)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """Both CLIPs' tokens and the second's pooled embedding; for no prompt zeros, where the pipeline has them so."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device
        )
        if prompt == "" and self.pipeline.config.force_zeros_for_empty_prompt:
            tokens, pooled = torch.zeros_like(tokens), torch.zeros_like(pooled)
        return Conditioning(tokens.to(self.dtype), extra=self._added(pooled.to(self.dtype)))

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """With pooled embeddings and sizes."""
        config = self.config
        width = config.projection_class_embeddings_input_dim - _TIME_IDS * config.addition_time_embed_dim
        return Conditioning(tokens, extra=self._added(self.zeros(len(tokens), width)))

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Latents, timesteps, prompts, sizes."""
        return {
            "sample": x_t,
            "timestep": raw_t,
            "encoder_hidden_states": conditioning.tokens,
            "added_cond_kwargs": conditioning.extra,
        }

    def _added(self, pooled: Tensor) -> dict[str, Tensor]:
        factor = self.pipeline.vae_scale_factor if self.pipeline is not None else 8
        size = [side * factor for side in self.latent_shape[1:]]
        time_ids = torch.tensor([[*size, 0, 0, *size]], dtype=pooled.dtype, device=pooled.device)
        return {"text_embeds": pooled, "time_ids": time_ids.repeat(len(pooled), 1)}
