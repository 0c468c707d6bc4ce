"""In which type and by which backend a sparse product is computed."""

import functools
import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.csr import Csr

DecodeBackend = Literal["auto", "dense", "coo", "embedding_bag", "torch_sparse", "triton"]

# Above this share of active latents the dense product is faster: measured on the CPU and reckoned for CUDA in
# docs/numerics.md.
_DENSE_ABOVE_CPU_FLOAT32 = 0.10
_DENSE_ABOVE_CPU_16_BIT = 0.04
_DENSE_ABOVE_ELSEWHERE = 0.01

_log = logging.getLogger(__name__)


def product_dtype(*operands: Tensor) -> torch.dtype:
    """The operands' common type, or autocast's unless an operand is float64, which autocast leaves alone."""
    dtype = functools.reduce(torch.promote_types, (operand.dtype for operand in operands))
    device_type = operands[-1].device.type
    if torch.is_autocast_enabled(device_type) and dtype != torch.float64:
        return torch.get_autocast_dtype(device_type)
    return dtype


def choose_backend(wanted: DecodeBackend, code: Csr) -> DecodeBackend:
    """The wanted backend; for `auto` the one measured as fastest for this code's density, type and device."""
    if wanted != "auto":
        if wanted not in BACKENDS:
            raise UserError(f"unknown decode backend '{wanted}': choose one of {', '.join(get_args(DecodeBackend))}")
        return wanted
    dtype, device_type = code.values.dtype, code.values.device.type
    if device_type != "cpu":
        dense_above = _DENSE_ABOVE_ELSEWHERE
    elif dtype.itemsize == 2:
        dense_above = _DENSE_ABOVE_CPU_16_BIT
    else:
        dense_above = _DENSE_ABOVE_CPU_FLOAT32
    is_dense = code.columns.numel() > dense_above * code.num_rows * code.num_columns
    backend: DecodeBackend = "dense" if is_dense else "embedding_bag"
    if not torch.compiler.is_compiling():
        _log_choice(backend, device_type, dtype, dense_above)
    return backend


@functools.cache
def _log_choice(backend: str, device_type: str, dtype: torch.dtype, dense_above: float) -> None:
    """Cached, so that each choice is said once and not at every step."""
    side = "above" if backend == "dense" else "up to"
    _log.info(
        "decode: auto takes %s, %s %g active latents on %s in %s",
        backend,
        side,
        dense_above,
        device_type,
        dtype,
    )
