"""Stable Diffusion 3 and 3.5: image and text streams that attend to each other, a flow."""

from __future__ import annotations

from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser

_CLIP_TOKENS, _T5_TOKENS = 77, 256  # the pipeline's defaults; the one's embeddings stand before the other's


class StableDiffusion3(Denoiser):
    """diffusers' SD3Transformer2DModel in a StableDiffusion3Pipeline."""

    streams = ("image", "text")

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """CLIP's tokens, then T5's."""
        return _CLIP_TOKENS + _T5_TOKENS, int(self.config.joint_attention_dim)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """All three text encoders, and the pooled embedding of the first two."""
        tokens, _, pooled, _ = self.pipeline.encode_prompt(
            prompt, None, None, do_classifier_free_guidance=False, device=self.device, max_sequence_length=_T5_TOKENS
        )
        return Conditioning(tokens.to(self.dtype), extra={"pooled_projections": pooled.to(self.dtype)})

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """With pooled embeddings."""
        pooled = self.zeros(len(tokens), self.config.pooled_projection_dim)
        return Conditioning(tokens, extra={"pooled_projections": pooled})
