"""Sparse numerics: encoding with selection, decoding, and their gradients. Tensors only."""

from tide_lightning.kernels.aux import AuxCode
from tide_lightning.kernels.choice import DecodeBackend
from tide_lightning.kernels.decode import decode, decode_with_aux
from tide_lightning.kernels.encode import Encoded, encode
from tide_lightning.kernels.fitting import fit_values
from tide_lightning.kernels.rows import normalise_rows, project_off_rows
from tide_lightning.kernels.selection import BatchTopK, Rule, Selected, Threshold, TopK, Within
from tide_lightning.kernels.topk import topk

__all__ = [
    "AuxCode",
    "BatchTopK",
    "DecodeBackend",
    "Encoded",
    "Rule",
    "Selected",
    "Threshold",
    "TopK",
    "Within",
    "decode",
    "decode_with_aux",
    "encode",
    "fit_values",
    "normalise_rows",
    "project_off_rows",
    "topk",
]
