"""PixArt-alpha and -sigma: one timestep embedding for all blocks (adaLN-single), T5 prompts by cross-attention."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families.tables import table_modulation

_PROMPT_STEP = 32  # prompts are cut to a multiple of this: few shapes, hence few compilations
_NO_MICRO_CONDITIONS = {"resolution": None, "aspect_ratio": None}


class PixArt(Denoiser):
    """diffusers' PixArtTransformer2DModel in a PixArtAlphaPipeline."""

    max_prompt_tokens = 120
    """The pipeline's own default."""

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """T5's width, which the transformer projects."""
        return self.max_prompt_tokens, int(self.config.caption_channels or self.config.cross_attention_dim)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """T5 embeddings with their mask; of the padding, which is masked anyway, no more than fills a step of 32."""
        tokens, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, clean_caption=False
        )
        length = -(-int(mask.sum()) // _PROMPT_STEP) * _PROMPT_STEP
        tokens, mask = tokens[:, :length].to(self.dtype).clone(), mask[:, :length].clone()
        return Conditioning(tokens, mask, self._micro_conditions(1))

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """All tokens are masked."""
        return Conditioning(
            tokens, tokens.new_zeros(tokens.shape[:2], dtype=torch.long), self._micro_conditions(len(tokens))
        )

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """The 512-pixel models still want to be told that there are no micro-conditions."""
        told = Conditioning(conditioning.tokens, conditioning.mask)
        added = conditioning.extra or _NO_MICRO_CONDITIONS
        return {**super().arguments(x_t, raw_t, told), "added_cond_kwargs": added}

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """From each block's table; the first two of six rows are those before attention."""
        module: Any = self.module
        extra = self._micro_conditions(len(raw_t)) or _NO_MICRO_CONDITIONS
        rows, embedded = module.adaln_single(raw_t, extra, batch_size=len(raw_t), hidden_dtype=self.dtype)
        return table_modulation(module, module.transformer_blocks, block, rows, embedded)

    def _micro_conditions(self, num_samples: int) -> dict[str, Tensor]:
        """Image size and aspect ratio, which only the 1024-pixel models of PixArt-alpha are told."""
        if not getattr(self.module, "use_additional_conditions", False):
            return {}
        scale = self.pipeline.vae_scale_factor if self.pipeline is not None else 8
        height, width = (float(side * scale) for side in self.latent_shape[1:])
        resolution = torch.tensor([[height, width]], dtype=self.dtype, device=self.device)
        aspect_ratio = torch.tensor([[height / width]], dtype=self.dtype, device=self.device)
        return {"resolution": resolution.repeat(num_samples, 1), "aspect_ratio": aspect_ratio.repeat(num_samples, 1)}


class PixArtSigma(PixArt):
    """The same transformer in a PixArtSigmaPipeline: longer prompts, never micro-conditions."""

    max_prompt_tokens = 300

    def _micro_conditions(self, num_samples: int) -> dict[str, Tensor]:
        return {}
