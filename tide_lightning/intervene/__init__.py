"""SAEs inside a denoiser: sites replaced, latents edited and recorded while an image is made."""

from tide_lightning.intervene.edits import Edit, Halves, Mode, Operation, Shift
from tide_lightning.intervene.region import Region
from tide_lightning.intervene.splicing import splice_denoiser, splicing
from tide_lightning.intervene.steering import effect, steer

__all__ = ["Edit", "Halves", "Mode", "Operation", "Region", "Shift", "effect", "splice_denoiser", "splicing", "steer"]
