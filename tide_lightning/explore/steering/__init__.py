"""Steering: change what a denoiser's latents say while it makes an image."""

from tide_lightning.explore.steering.comparison import Change, change, difference
from tide_lightning.explore.steering.edits import Edit, Halves, Mode, Operation
from tide_lightning.explore.steering.region import Region
from tide_lightning.explore.steering.steer import effect, steer

__all__ = ["Change", "Edit", "Halves", "Mode", "Operation", "Region", "change", "difference", "effect", "steer"]
