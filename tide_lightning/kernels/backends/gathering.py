"""Decoding by rows of the weight: whatever did not fire is never touched, and no [N, K, D] tensor is made."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.kernels.csr import Csr, accumulation_dtype
from tide_lightning.threads import filtering_warnings

_MOST_NUMBERS_GATHERED = 2**24


def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z], by operations that every PyTorch has."""
    if torch.compiler.is_compiling():
        return _gathered(code.rows(), code.columns, left_ND, right_MD)  # one fused loop once it is compiled
    if left_ND.device.type == "cpu":
        return _sampled_product(code, left_ND, right_MD)
    return _gathered_in_parts(code, left_ND, right_MD)


@dataclass(frozen=True)
class GatheringBackend:
    """All three results from one sparse-by-dense product and one gathered dot product.

    Args:
        matmul: a sparse matrix times a dense one.
        dot_products: left[n] . right[m] for every entry (n, m) of a code.
    """

    matmul: Callable[[Csr, Tensor], Tensor]
    dot_products: Callable[[Csr, Tensor, Tensor], Tensor] = dot_products

    def forward(self, code: Csr, weight_MD: Tensor) -> Tensor:
        """The decoded tokens, [N, D]."""
        return self.matmul(code, weight_MD)

    def grad_values(self, code: Csr, weight_MD: Tensor, grad_ND: Tensor) -> Tensor:
        """The gradient of the code's values, [Z]."""
        return self.dot_products(code, grad_ND, weight_MD)

    def grad_weight(self, code: Csr, grad_ND: Tensor) -> Tensor:
        """The gradient of the weight, [M, D]; rows of latents that did not fire are zero."""
        return self.matmul(code.transposed(), grad_ND)


def _gathered(rows_Z: Tensor, columns_Z: Tensor, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    dtype = accumulation_dtype(left_ND.dtype)
    return (left_ND[rows_Z].to(dtype) * right_MD[columns_Z].to(dtype)).sum(1)


def _gathered_in_parts(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """Some entries at a time: a GPU's kernel for all at once, `embedding_bag`'s own, knows no bf16."""
    step = max(1, _MOST_NUMBERS_GATHERED // max(1, left_ND.shape[1]))
    parts = zip(code.rows().split(step), code.columns.split(step), strict=True)
    return torch.cat([_gathered(rows, columns, left_ND, right_MD) for rows, columns in parts])


def _sampled_product(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """In float32 at least; a CPU's fastest way."""
    dtype = accumulation_dtype(left_ND.dtype)
    left_ND, right_MD = left_ND.to(dtype), right_MD.to(dtype)
    if code.columns.numel() > code.num_rows * code.num_columns:  # more than a CSR tensor holds: entries repeat
        return (left_ND @ right_MD.T).flatten()[code.places()]
    _take_csr_notice()
    mask = torch.sparse_csr_tensor(
        code.row_pointer,
        code.columns,
        left_ND.new_zeros(code.columns.numel()),
        (code.num_rows, code.num_columns),
        check_invariants=False,  # repeated and unsorted columns are fine: each entry stands alone
    )
    products: Tensor = torch.sparse.sampled_addmm(mask, left_ND, right_MD.T, beta=0.0)
    return products.values()


@functools.cache
def _take_csr_notice() -> None:
    """PyTorch says once a process that CSR tensors are in beta: nothing that our users could act upon."""
    with filtering_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pointer = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(pointer, pointer[:0], torch.zeros(0), (0, 1), check_invariants=False)
