"""Sparse autoencoders: codes, the temporal SAE and its rivals, their known part and losses."""

from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.known import LEAKING, KnownPart, KnownStatistics, Rung
from tide_lightning.saes.losses import Loss, training_loss
from tide_lightning.saes.sae import SAE, SAEOutput
from tide_lightning.saes.tide import TideSAE

__all__ = [
    "LEAKING",
    "SAE",
    "KnownPart",
    "KnownStatistics",
    "Loss",
    "Rung",
    "SAEOutput",
    "SparseCode",
    "TideSAE",
    "training_loss",
]
