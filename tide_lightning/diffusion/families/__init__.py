"""What each family of pipelines does in its own way."""

from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families.dit import DiT
from tide_lightning.diffusion.families.flux import Flux
from tide_lightning.diffusion.families.pixart import PixArt, PixArtSigma
from tide_lightning.diffusion.families.sana import Sana
from tide_lightning.diffusion.families.sd3 import StableDiffusion3
from tide_lightning.diffusion.families.sdxl import StableDiffusionXL
from tide_lightning.diffusion.families.wan import Wan

FAMILIES: dict[str, type[Denoiser]] = {
    "DiTPipeline": DiT,
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArtSigma,
    "StableDiffusion3Pipeline": StableDiffusion3,
    "FluxPipeline": Flux,
    "SanaPipeline": Sana,
    "WanPipeline": Wan,
    "StableDiffusionXLPipeline": StableDiffusionXL,
}
"""By the `_class_name` in a pipeline's model_index.json."""
