"""What each family of pipelines does in its own way."""

from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.families.pixart import PixArt, PixArtSigma

FAMILIES: dict[str, type[Denoiser]] = {
    "PixArtAlphaPipeline": PixArt,
    "PixArtSigmaPipeline": PixArtSigma,
}
"""By the `_class_name` in a pipeline's model_index.json."""
