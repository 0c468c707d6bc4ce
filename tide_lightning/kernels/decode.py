"""Sparse decoding, sum over a token's active latents of value times decoder row, with its gradients.

Shape suffixes: N tokens, M latents (d_sae), D channels, K active latents a token, Z stored entries (nnz).
"""

import functools
import logging
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tide_lightning.errors import UserError
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.csr import Csr

DecodeBackend = Literal["auto", "dense", "coo", "embedding_bag", "torch_sparse"]

# Above this share of active latents the dense product is faster: measured on the CPU and reckoned for CUDA in
# docs/numerics.md.
_DENSE_ABOVE_CPU_FLOAT32 = 0.10
_DENSE_ABOVE_CPU_16_BIT = 0.04
_DENSE_ABOVE_ELSEWHERE = 0.01

_log = logging.getLogger(__name__)


def decode(
    values: Tensor,
    indices: Tensor,
    weight_MD: Tensor,
    row_pointer: Tensor | None = None,
    backend: DecodeBackend = "auto",
) -> Tensor:
    """The decoded tokens, [N, D]: every token's sum of values times rows of the weight.

    Gradients reach values and weight; repeated indices add up. Under autocast the operands are cast like
    those of a matrix product, sums are kept in float32, and gradients come back in each operand's own type.

    Args:
        values: [N, K], or [Z] where tokens have different numbers of active latents.
        indices: int64, the rows of the weight, of the same shape as values.
        weight_MD: the decoder, one row a latent.
        row_pointer: int64 [N + 1] with a flat code: where in it each token starts, and its length.
        backend: `auto` takes the one measured as fastest for this density and device, and logs which.
    """
    if row_pointer is None:
        num_tokens, k = values.shape
        row_pointer = torch.arange(num_tokens + 1, device=indices.device) * k
    dtype = _product_dtype(values, weight_MD)
    if backend == "auto":
        backend = _fastest_backend(indices.numel(), row_pointer.numel() - 1, weight_MD.shape[0], dtype, values.device)
    elif backend not in BACKENDS:
        raise UserError(f"unknown decode backend '{backend}': choose one of {', '.join(get_args(DecodeBackend))}")
    decoded: Tensor = _Decode.apply(  # type: ignore[no-untyped-call]
        values.to(dtype).flatten(), indices.flatten(), row_pointer, weight_MD.to(dtype), backend
    )
    return decoded


class _Decode(torch.autograd.Function):
    """The product and its two gradients by one backend. `decode` has settled the type, so autocast is off."""

    @staticmethod
    def forward(
        ctx: Any, values_Z: Tensor, indices_Z: Tensor, row_pointer: Tensor, weight_MD: Tensor, backend: str
    ) -> Tensor:
        ctx.save_for_backward(values_Z, indices_Z, row_pointer, weight_MD)
        ctx.backend = backend
        code = Csr(values_Z, indices_Z, row_pointer, num_columns=weight_MD.shape[0])
        with torch.autocast(weight_MD.device.type, enabled=False):
            return BACKENDS[backend].forward(code, weight_MD).to(weight_MD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor) -> tuple[Tensor | None, ...]:
        values_Z, indices_Z, row_pointer, weight_MD = ctx.saved_tensors
        code = Csr(values_Z, indices_Z, row_pointer, num_columns=weight_MD.shape[0])
        backend = BACKENDS[ctx.backend]
        grad_ND = grad_ND.contiguous()
        grad_values_Z = grad_weight_MD = None
        with torch.autocast(weight_MD.device.type, enabled=False):
            if ctx.needs_input_grad[0]:
                grad_values_Z = backend.grad_values(code, weight_MD, grad_ND).to(values_Z.dtype)
            if ctx.needs_input_grad[3]:
                grad_weight_MD = backend.grad_weight(code, grad_ND).to(weight_MD.dtype)
        return grad_values_Z, None, None, grad_weight_MD, None


def _product_dtype(values: Tensor, weight: Tensor) -> torch.dtype:
    """The operands' common type, or autocast's unless an operand is float64, which autocast leaves alone."""
    dtype = torch.promote_types(values.dtype, weight.dtype)
    if torch.is_autocast_enabled(weight.device.type) and dtype != torch.float64:
        return torch.get_autocast_dtype(weight.device.type)
    return dtype


def _fastest_backend(
    num_entries: int, num_tokens: int, num_latents: int, dtype: torch.dtype, device: torch.device
) -> DecodeBackend:
    if device.type != "cpu":
        dense_above = _DENSE_ABOVE_ELSEWHERE
    elif dtype.itemsize == 2:
        dense_above = _DENSE_ABOVE_CPU_16_BIT
    else:
        dense_above = _DENSE_ABOVE_CPU_FLOAT32
    is_dense = num_entries > dense_above * num_tokens * num_latents
    backend: DecodeBackend = "dense" if is_dense else "embedding_bag"
    if not torch.compiler.is_compiling():
        _log_choice(backend, device.type, dtype, dense_above)
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
