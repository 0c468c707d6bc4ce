"""Sparse numerics: top-k selection, sparse decoding and their gradients. Tensors only."""

from tide_lightning.kernels.decode import DecodeBackend, decode
from tide_lightning.kernels.topk import topk

__all__ = ["DecodeBackend", "decode", "topk"]
