"""The frozen denoiser as everything above sees it, whatever the family."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from tide_lightning.diffusion.denoiser.sites import HasSites
from tide_lightning.diffusion.loss_weights import check_weights, default_weights
from tide_lightning.diffusion.schedule import schedule_of


class Denoiser(HasSites):
    """A frozen diffusion transformer with its schedule, its VAE and its prompts.

    A family says how its transformer is called and conditioned; the rest is common: calling it (`CallsModule`), prompts
    (`EncodesPrompts`), latents (`HasLatents`) and sites (`HasSites`). Shapes: N samples, latents [N, *latent_shape],
    T tokens of width d, patches of P numbers.

    Args:
        module: the transformer. It is frozen here.
        scheduler: the pipeline's scheduler; copies of it drive trajectories.
        pipeline: the diffusers pipeline that owns VAE and text encoders; None where only shapes are wanted.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
    """

    component: str = "transformer"
    """The pipeline's part that is the denoiser."""
    loss_weights: str | None
    """How its training weighed errors over t; None where that is not known."""

    def __init__(
        self, module: nn.Module, scheduler: Any, pipeline: Any = None, latent_size: Sequence[int] | None = None
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.schedule = schedule_of(scheduler, self.timestep_divisor)
        self.loss_weights = default_weights(self.schedule)
        self.pipeline = pipeline
        self._latent_size = None if latent_size is None else tuple(latent_size)
        self.encode_prompts_by(self.encode_prompt)
        self._found = {}
        self._around = lambda x_t, raw_t, conditioning: nullcontext()
        self.check_size()

    def trained_with(self, loss_weights: str | None) -> Denoiser:
        """Say how training weighed errors over t, in place: see `loss_weights.py`; None leaves what is assumed."""
        if loss_weights is not None:
            self.loss_weights = check_weights(loss_weights, self.schedule)
        return self

    def to(self, device: torch.device | str) -> Denoiser:
        """Move every part, in place."""
        if torch.device(device) != self.device:
            self._prompts.clear()
        self.module.to(device)
        for part in self.pipeline.components.values() if self.pipeline is not None else [self.vae]:
            if isinstance(part, nn.Module):
                part.to(device)
        return self
