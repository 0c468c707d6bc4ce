"""PixArt-alpha and -sigma: one timestep embedding for all blocks (adaLN-single), T5 prompts by cross-attention."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.sites import Site

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

    @torch.no_grad()
    def adaln(self, site: Site | str, num_times: int = 64) -> tuple[Tensor, Tensor, Tensor] | None:
        """The next block's (shift, scale) before attention; the output layer's for the last block."""
        site = Site.parse(site) if isinstance(site, str) else site
        block = re.fullmatch(r"transformer_blocks\.(\d+)", site.path)
        if site.part != "output" or not (block or site.path == "pos_embed"):
            return None
        module: Any = self.module
        following = int(block[1]) + 1 if block else 0
        t = torch.linspace(0, 1, num_times, device=self.device)
        extra = self._micro_conditions(num_times) or _NO_MICRO_CONDITIONS
        projected, embedded = module.adaln_single(
            self.schedule.raw_t(t), extra, batch_size=num_times, hidden_dtype=self.dtype
        )
        if following < len(module.transformer_blocks):
            table = module.transformer_blocks[following].scale_shift_table  # six rows, the first two for attention
            shift, scale = (table[None] + projected.reshape(num_times, 6, -1))[:, :2].unbind(1)
        else:
            shift, scale = (module.scale_shift_table[None] + embedded[:, None]).unbind(1)
        return t.cpu(), scale.float().cpu(), shift.float().cpu()

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
