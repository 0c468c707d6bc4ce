"""PixArt-alpha: one timestep embedding shared by all blocks (adaLN-single), T5 prompts by cross-attention."""

from __future__ import annotations

import logging
import re
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning, unknown_words
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.sites import Site

_log = logging.getLogger(__name__)

_MAX_PROMPT_TOKENS = 120  # PixArtAlphaPipeline's own default
_PROMPT_STEP = 32  # prompts are cut to a multiple of this: few shapes, hence few compilations
_NO_MICRO_CONDITIONS = {"resolution": None, "aspect_ratio": None}


class PixArt(Denoiser):
    """diffusers' PixArtTransformer2DModel in a PixArtAlphaPipeline."""

    @property
    def _config(self) -> Any:
        return self.module.config

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """Channels, height, width."""
        return self._config.in_channels, self._config.sample_size, self._config.sample_size

    @property
    def patch_size(self) -> int:
        """Two in every published PixArt."""
        return int(self._config.patch_size)

    @torch.no_grad()
    def encode_prompt(self, prompt: str) -> Conditioning:
        """T5 embeddings with their mask; of the padding, which is masked anyway, no more than fills a step of 32."""
        unknown = unknown_words(self.pipeline.tokenizer, prompt)
        if unknown:
            _log.warning("the tokenizer does not know %s in the prompt %r", ", ".join(unknown), prompt)
        tokens, mask, _, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, clean_caption=False
        )
        length = -(-int(mask.sum()) // _PROMPT_STEP) * _PROMPT_STEP
        tokens, mask = tokens[:, :length].to(self.dtype).clone(), mask[:, :length].clone()
        return Conditioning(tokens, mask, self._micro_conditions(1))

    def blank_conditioning(self, num_samples: int) -> Conditioning:
        """Zeros, one prompt token of which counts."""
        width = self._config.caption_channels or self._config.cross_attention_dim
        tokens = torch.zeros(num_samples, _MAX_PROMPT_TOKENS, width, dtype=self.dtype, device=self.device)
        mask = torch.zeros(num_samples, _MAX_PROMPT_TOKENS, dtype=torch.long, device=self.device)
        return Conditioning(tokens, mask, self._micro_conditions(num_samples))

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Predicted noise; the learned variance in the second half of the channels is dropped."""
        extra = conditioning.extra or _NO_MICRO_CONDITIONS
        output: Tensor = self.module(
            x_t,
            encoder_hidden_states=conditioning.tokens,
            encoder_attention_mask=conditioning.mask,
            timestep=raw_t,
            added_cond_kwargs=extra,
            return_dict=False,
        )[0]
        return output[:, : self.latent_shape[0]]

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
        """Image size and aspect ratio, which only the 1024-pixel models are told."""
        if not getattr(self.module, "use_additional_conditions", False):
            return {}
        scale = self.pipeline.vae_scale_factor if self.pipeline is not None else 8
        side = float(self._config.sample_size * scale)
        resolution = torch.full((num_samples, 2), side, dtype=self.dtype, device=self.device)
        aspect_ratio = torch.ones(num_samples, 1, dtype=self.dtype, device=self.device)
        return {"resolution": resolution, "aspect_ratio": aspect_ratio}
