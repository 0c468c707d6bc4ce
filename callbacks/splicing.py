"""Splicing: the denoiser runs with what an SAE (or a cheaper predictor) makes of its own activations.

Everything that a splice is told, it can work out from what the denoiser is given: timestep, place and input. So it acts
in any forward alike: one noised batch, both halves of a guided one, a whole trajectory.

Shapes: N samples, T tokens, D channels, P numbers in a patch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Site, splice
from tide_lightning.saes import LEAKING, TideSAE
from tide_lightning.tokens import Half, SiteShape, Source, TokenBatch

Predictor = Callable[[TokenBatch], Tensor]
"""Makes x_hat [B, D] of a site's tokens."""


class SplicedDenoiser(Denoiser):
    """A denoiser whose sites are replaced in every forward.

    Args:
        original: the denoiser itself, which keeps its weights and prompts.
        predictors: what replaces each site's tokens.
        shapes: each site's sizes.
    """

    def __init__(
        self, original: Denoiser, predictors: Mapping[str, Predictor], shapes: Mapping[str, SiteShape]
    ) -> None:
        self.module, self.scheduler, self.schedule = original.module, original.scheduler, original.schedule
        self.pipeline, self.streams = original.pipeline, original.streams
        self._original, self._predictors, self._shapes = original, predictors, shapes

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """The original's."""
        return self._original.latent_shape

    @property
    def patch_size(self) -> int:
        """The original's."""
        return self._original.patch_size

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The original's."""
        return self._original.encode_prompt(prompt)

    def encode_prompts(self, prompts: object) -> Conditioning:
        """The original's, with its cache."""
        return self._original.encode_prompts(prompts)  # type: ignore[arg-type]

    def blank_conditioning(self, num_samples: int) -> Conditioning:
        """The original's."""
        return self._original.blank_conditioning(num_samples)

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The original's forward, spliced."""
        contexts: dict[int, TokenBatch] = {}  # sites differ by their windows only
        replacements = {}
        for name, predictor in self._predictors.items():
            shape = self._shapes[name]
            if shape.d_window not in contexts:
                contexts[shape.d_window] = site_context(self._original, shape, x_t, raw_t)
            replacements[Site.parse(name)] = _replacement(predictor, contexts[shape.d_window])
        with splice(self.module, replacements):
            return self._original.forward(x_t.to(self.dtype), raw_t, conditioning)

    def predict(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """As the original predicts; the splice itself reads x_t before it is rounded to the denoiser's precision."""
        with torch.autocast(x_t.device.type, enabled=False):
            return self.forward(x_t, raw_t, conditioning).float()


def site_context(denoiser: Denoiser, shape: SiteShape, x_t: Tensor, raw_t: Tensor) -> TokenBatch:
    """What is known of a site's tokens in a forward on x_t [N, ...] at raw_t [N], with activations still to come."""
    num_samples, num_tokens = len(x_t), denoiser.num_tokens
    patches = denoiser.patches(x_t.float())
    window = None
    if shape.d_window:
        radius = (math.isqrt(shape.d_window // shape.d_input) - 1) // 2
        window = denoiser.windows(x_t.float(), radius).flatten(0, 1)
    raw_B = raw_t.float().repeat_interleave(num_tokens)
    flag = torch.zeros_like(raw_B, dtype=torch.int8)
    return TokenBatch(
        x=patches.new_zeros(num_samples * num_tokens, 0),
        t=denoiser.schedule.t(raw_t).float().repeat_interleave(num_tokens),
        raw_t=raw_B,
        position=denoiser.positions().to(x_t.device).repeat(num_samples, 1),
        sample=torch.arange(num_samples, device=x_t.device).repeat_interleave(num_tokens),
        input=patches.flatten(0, 1),
        half=flag + int(Half.CONDITIONAL),
        source=flag + int(Source.NOISE),
        window=window,
    )


def reconstruct_by(sae: TideSAE) -> Predictor:
    """The SAE's reconstruction."""

    def predict(tokens: TokenBatch) -> Tensor:
        x_hat: Tensor = sae(tokens).x_hat
        return x_hat

    return predict


def known_alone(sae: TideSAE) -> Predictor:
    """The SAE's known part without any latent."""

    def predict(tokens: TokenBatch) -> Tensor:
        known: Tensor = sae.known(**tokens.context())
        return known.expand(len(tokens), -1)

    return predict


def constant(mean: Tensor) -> Predictor:
    """The same vector [D] for every token."""
    return lambda tokens: mean.expand(len(tokens), -1)


def why_not(sae: TideSAE) -> str | None:
    """The reason why an SAE must not be spliced, if there is one."""
    if sae.known.rung in LEAKING:
        return (
            f"known_part {sae.known.rung} uses the true noise, part of the denoiser's target: for reading features only"
        )
    return None


def _replacement(predictor: Predictor, context: TokenBatch) -> Callable[[Tensor], Tensor]:
    def replace_value(x_NTD: Tensor) -> Tensor:
        tokens = TokenBatch(**{**context.tensors(), "x": x_NTD.float().flatten(0, 1)})
        return predictor(tokens).reshape(x_NTD.shape)

    return replace_value
