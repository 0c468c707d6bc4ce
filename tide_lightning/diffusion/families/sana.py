"""Sana: linear attention on latents of a 32-fold autoencoder, prompts through a language model, a flow."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families.tables import table_modulation

_PROMPT_TOKENS = 300  # the pipeline's default


class Sana(Denoiser):
    """diffusers' SanaTransformer2DModel in a SanaPipeline."""

    @property
    def timestep_divisor(self) -> float:
        """Some Sanas are given sigma, others a thousand times as much."""
        return 1 / float(self.config.timestep_scale)

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """The language model's width, which the transformer projects."""
        return _PROMPT_TOKENS, int(self.config.caption_channels)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The prompt after the pipeline's own instruction on how to read it; the empty one stands alone."""
        instruction = inspect.signature(self.pipeline.__call__).parameters["complex_human_instruction"].default
        tokens, mask, _, _ = self.pipeline.encode_prompt(
            prompt,
            do_classifier_free_guidance=False,
            device=self.device,
            max_sequence_length=_PROMPT_TOKENS,
            complex_human_instruction=instruction if prompt else None,
        )
        return Conditioning(tokens.to(self.dtype), mask)

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """All tokens are masked."""
        return Conditioning(tokens, tokens.new_zeros(tokens.shape[:2], dtype=torch.long))

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """From each block's table."""
        module: Any = self.module
        rows, embedded = module.time_embed(raw_t, batch_size=len(raw_t), hidden_dtype=self.dtype)
        return table_modulation(module, module.transformer_blocks, block, rows, embedded)
