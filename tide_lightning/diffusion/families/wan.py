"""Wan 2.1: videos. Latents have frames before rows and columns; prompts are read by cross-attention."""

from __future__ import annotations

from typing import Any

from einops import rearrange
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families.tables import table_modulation
from tide_lightning.diffusion.grid import Grid
from tide_lightning.errors import UserError

_PROMPT_TOKENS = 512  # the pipeline's default


class Wan(Denoiser):
    """diffusers' WanTransformer3DModel in a WanPipeline with one transformer."""

    blocks = "blocks"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        config = self.pipeline.config if self.pipeline is not None else {}
        if config.get("boundary_ratio") is not None or config.get("expand_timesteps"):
            raise UserError("this Wan changes its transformer or its timesteps along the way (Wan 2.2): not supported")

    @property
    def default_latent_size(self) -> Grid:
        """81 frames of 480x832 pixels."""
        return 21, 60, 104

    @property
    def patch_shape(self) -> Grid:
        """One frame, two rows, two columns."""
        return tuple(self.config.patch_size)

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """T5's width, which the transformer projects."""
        return _PROMPT_TOKENS, int(self.config.text_dim)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """T5's tokens, zeros behind them: the transformer has no mask."""
        tokens, _ = self.pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, device=self.device, max_sequence_length=_PROMPT_TOKENS
        )
        return Conditioning(tokens.to(self.dtype))

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """From each block's table."""
        module: Any = self.module
        embedder, no_prompt = module.condition_embedder, self.zeros(len(raw_t), 1, self.prompt_shape[1])
        embedded, rows, _, _ = embedder(raw_t, no_prompt)
        return table_modulation(module, module.blocks, block, rows, embedded)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Channels, frames, rows, columns: the first latent frame is one frame, each other several."""
        channels, frames, *sides = super().image_shape
        vae = self.vae.config
        latent_frames = frames // vae.scale_factor_spatial
        return channels, (latent_frames - 1) * vae.scale_factor_temporal + 1, *sides

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Each video as one image [3, H, frames * W], its frames side by side."""
        return rearrange(super().decode_latents(latents), "n c f h w -> n c h (f w)")
