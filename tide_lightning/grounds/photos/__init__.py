"""Photographs, a world that we did not make: CIFAR-10's images, a class-conditional DiT trained on them, two judges.

The images are the user's to bring; denoiser and judges come with the repository. See docs/tutorials/photographs.md.
"""

from tide_lightning.grounds.photos.attributes import ATTRIBUTES, attributes, measure
from tide_lightning.grounds.photos.classes import CLASSES, KINDS
from tide_lightning.grounds.photos.dataset import FACTORS, Photo, Photos
from tide_lightning.grounds.photos.denoiser import PhotoDiT
from tide_lightning.grounds.photos.ground import PhotoGround
from tide_lightning.grounds.photos.judge import PhotoFeatures, PhotoJudge, PhotoValueJudge
from tide_lightning.grounds.photos.sources import Photographs, find_source, read_photographs

__all__ = [
    "ATTRIBUTES",
    "CLASSES",
    "FACTORS",
    "KINDS",
    "Photo",
    "PhotoDiT",
    "PhotoFeatures",
    "PhotoGround",
    "PhotoJudge",
    "PhotoValueJudge",
    "Photographs",
    "Photos",
    "attributes",
    "find_source",
    "measure",
    "read_photographs",
]
