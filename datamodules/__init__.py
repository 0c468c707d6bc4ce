"""On-the-fly activations from a frozen denoiser."""

from tide_lightning.datamodules.activations import ActivationDataModule
from tide_lightning.datamodules.disk_cache import DiskCache
from tide_lightning.datamodules.harvest import Call
from tide_lightning.datamodules.heldout import HeldOutBatch
from tide_lightning.datamodules.hub_datasets import HubImages
from tide_lightning.datamodules.images import ImageFolder
from tide_lightning.datamodules.shards import Shard

__all__ = ["ActivationDataModule", "Call", "DiskCache", "HeldOutBatch", "HubImages", "ImageFolder", "Shard"]
