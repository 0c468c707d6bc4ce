"""On-the-fly activations from a frozen denoiser."""

from tide_lightning.datamodules.activations import ActivationDataModule
from tide_lightning.datamodules.cache import DiskCache
from tide_lightning.datamodules.harvest import Call
from tide_lightning.datamodules.heldout import HeldOutBatch
from tide_lightning.datamodules.sampling import Shard
from tide_lightning.datamodules.sources import HubImages, ImageFolder

__all__ = ["ActivationDataModule", "Call", "DiskCache", "HeldOutBatch", "HubImages", "ImageFolder", "Shard"]
