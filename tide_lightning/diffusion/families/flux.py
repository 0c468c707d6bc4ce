"""FLUX.1: latents packed into a sequence of 2x2 patches, double and single blocks, guidance that the model is told."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tide_lightning.diffusion import grid
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser, Guidance

_DEV_TOKENS, _SCHNELL_TOKENS = 512, 256  # the longest prompts that they were trained on
_DEV_GUIDANCE = 3.5  # the pipeline's default: what the model is told outside of guided trajectories


class Flux(Denoiser):
    """diffusers' FluxTransformer2DModel in a FluxPipeline: schnell, and dev, which is told a guidance scale."""

    streams = ("image", "text")

    @property
    def timestep_divisor(self) -> float:
        """The transformer is given sigma."""
        return 1000.0

    @property
    def guidance(self) -> Guidance:
        """Dev is told its scale, schnell knows none."""
        return "embedded" if self.config.guidance_embeds else "none"

    @property
    def num_channels(self) -> int:
        """Before packing."""
        return int(self.config.in_channels) // 4

    @property
    def patch_shape(self) -> grid.Grid:
        """What is packed into a token."""
        return 2, 2

    @property
    def default_latent_size(self) -> grid.Grid:
        """1024 pixels."""
        return 128, 128

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """T5's tokens."""
        return (_DEV_TOKENS if self.guidance == "embedded" else _SCHNELL_TOKENS), int(self.config.joint_attention_dim)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """T5's tokens and CLIP's pooled embedding."""
        tokens, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, device=self.device, max_sequence_length=self.prompt_shape[0]
        )
        return self._pooled(tokens.to(self.dtype), pooled.to(self.dtype))

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """With pooled embeddings."""
        return self._pooled(tokens, self.zeros(len(tokens), self.config.pooled_projection_dim))

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """Packed latents with their places; the prompt's tokens have none."""
        places = grid.positions(self.grid).to(x_t)
        return {
            **super().arguments(grid.patches(x_t, self.grid), raw_t, conditioning),
            "img_ids": torch.cat([torch.zeros_like(places[:, :1]), places], dim=1),
            "txt_ids": x_t.new_zeros(conditioning.tokens.shape[1], 3),
        }

    def given(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Conditioning]:
        """With latents unpacked."""
        packed, raw_t, conditioning = super().given(arguments)
        return grid.unpatch(packed, self.grid, self.latent_shape), raw_t, conditioning

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction, unpacked."""
        output: Tensor = self.module(**self.arguments(x_t, raw_t, conditioning), return_dict=False)[0]
        return grid.unpatch(output, self.grid, self.latent_shape)

    def scheduler_arguments(self, num_inference_steps: int) -> dict[str, Any]:
        """Evenly spaced sigmas, before they are shifted."""
        arguments = super().scheduler_arguments(num_inference_steps)
        if not self.scheduler.config.get("use_flow_sigmas"):
            steps = arguments.pop("num_inference_steps")
            arguments["sigmas"] = np.linspace(1.0, 1 / steps, steps)
        return arguments

    def _pooled(self, tokens: Tensor, pooled: Tensor) -> Conditioning:
        conditioning = Conditioning(tokens, extra={"pooled_projections": pooled})
        return conditioning.told_guidance(_DEV_GUIDANCE) if self.guidance == "embedded" else conditioning
