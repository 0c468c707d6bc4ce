"""In which type and by which backend a sparse product is computed."""

import functools
import logging
from typing import Literal, get_args

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels import triton_kernels
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.csr import Csr

DecodeBackend = Literal["auto", "dense", "coo", "embedding_bag", "torch_sparse", "triton"]

# Above this share of active latents the dense product is faster: see docs/explanation/numerics.md. For a CPU and for 16
# bits on a GPU it was measured, for float32 on a GPU reckoned.
_DENSE_ABOVE_CPU_FLOAT32 = 0.10
_DENSE_ABOVE_CPU_16_BIT = 0.04
_DENSE_ABOVE_GPU_FLOAT32 = 0.01
_DENSE_ABOVE_GPU_16_BIT = 0.005

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
    device, dtype = code.values.device, code.values.dtype
    share = code.columns.numel() / max(1, code.num_rows * code.num_columns)
    backend = fastest_backend(device.type, dtype, share, triton_kernels.work_on(device))
    if not torch.compiler.is_compiling():
        _log_choice(backend, device.type, dtype, _dense_above(device.type, dtype))
    return backend


def fastest_backend(device_type: str, dtype: torch.dtype, share: float, has_triton: bool) -> DecodeBackend:
    """The backend measured as fastest."""
    if share > _dense_above(device_type, dtype):
        return "dense"
    return "triton" if has_triton else "embedding_bag"


def _dense_above(device_type: str, dtype: torch.dtype) -> float:
    if device_type == "cpu":
        return _DENSE_ABOVE_CPU_16_BIT if dtype.itemsize == 2 else _DENSE_ABOVE_CPU_FLOAT32
    return _DENSE_ABOVE_GPU_16_BIT if dtype.itemsize == 2 else _DENSE_ABOVE_GPU_FLOAT32


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
