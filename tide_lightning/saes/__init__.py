"""Sparse autoencoders: codes, the temporal SAE, its known part and losses."""

from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.known import LEAKING, KnownPart, KnownStatistics, Rung
from tide_lightning.saes.losses import Loss, training_loss
from tide_lightning.saes.tide import SAEOutput, TideSAE

__all__ = [
    "LEAKING",
    "KnownPart",
    "KnownStatistics",
    "Loss",
    "Rung",
    "SAEOutput",
    "SparseCode",
    "TideSAE",
    "training_loss",
]
