"""Sparse autoencoders: codes, the temporal SAE and its rivals, their known part and losses."""

from tide_lightning.saes.code import SparseCode
from tide_lightning.saes.film import FilmSAE
from tide_lightning.saes.gated import GatedSAE
from tide_lightning.saes.jumprelu import JumpReLUSAE
from tide_lightning.saes.known import LEAKING, KnownPart, Rung, rungs_of
from tide_lightning.saes.known_statistics import HELD_OUT, KnownStatistics
from tide_lightning.saes.losses import Loss, training_loss
from tide_lightning.saes.matching_pursuit import MatchingPursuitSAE
from tide_lightning.saes.matryoshka import MatryoshkaSAE
from tide_lightning.saes.per_bin import PerBinSAE
from tide_lightning.saes.relu import ReLUSAE
from tide_lightning.saes.sae import SAE, SAEOutput
from tide_lightning.saes.tide import TideSAE

__all__ = [
    "HELD_OUT",
    "LEAKING",
    "SAE",
    "FilmSAE",
    "GatedSAE",
    "JumpReLUSAE",
    "KnownPart",
    "KnownStatistics",
    "Loss",
    "MatchingPursuitSAE",
    "MatryoshkaSAE",
    "PerBinSAE",
    "ReLUSAE",
    "Rung",
    "SAEOutput",
    "SparseCode",
    "TideSAE",
    "rungs_of",
    "training_loss",
]
