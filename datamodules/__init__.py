"""On-the-fly activations from a frozen denoiser."""

from tide_lightning.datamodules.cache import DiskCache
from tide_lightning.datamodules.datamodule import ActivationDataModule, LoadingOptions
from tide_lightning.datamodules.harvest import Call
from tide_lightning.datamodules.heldout import HeldOutBatch, HeldOutOptions
from tide_lightning.datamodules.sampling import NoisedOptions, Shard, TrajectoryOptions
from tide_lightning.datamodules.sources import HubImages, ImageFolder

__all__ = [
    "ActivationDataModule",
    "Call",
    "DiskCache",
    "HeldOutBatch",
    "HeldOutOptions",
    "HubImages",
    "ImageFolder",
    "LoadingOptions",
    "NoisedOptions",
    "Shard",
    "TrajectoryOptions",
]
