"""The frozen denoiser: what is common to all families, in four parts."""

from tide_lightning.diffusion.denoiser.calling import Around, CallsModule, Guidance
from tide_lightning.diffusion.denoiser.denoiser import Denoiser
from tide_lightning.diffusion.denoiser.latents import HasLatents
from tide_lightning.diffusion.denoiser.prompts import EncodesPrompts
from tide_lightning.diffusion.denoiser.sites import HasSites

__all__ = ["Around", "CallsModule", "Denoiser", "EncodesPrompts", "Guidance", "HasLatents", "HasSites"]
