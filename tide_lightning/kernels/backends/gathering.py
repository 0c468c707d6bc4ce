"""Decoding by rows of the weight: whatever did not fire is never touched, and no [N, K, D] tensor is made."""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.kernels.csr import Csr


def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z]."""
    if (
        left_ND.device.type == "cpu"
        and left_ND.dtype in (torch.float32, torch.float64)
        and code.columns.numel() <= code.num_rows * code.num_columns  # a CSR tensor holds no more than that
        and not torch.compiler.is_compiling()  # torch.compile cannot trace sparse tensors
    ):
        return _sampled_product(code, left_ND, right_MD)  # a third faster than what follows
    # embedding_bag's own backward calls this: any floating type, sums in float32, a warp an entry on CUDA.
    mode_sum = 0
    products_Z: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward(
        left_ND, right_MD, code.columns, code.row_pointer[:-1], code.rows(), mode_sum
    )
    return products_Z


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


def _sampled_product(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    _take_csr_notice()
    mask = torch.sparse_csr_tensor(
        code.row_pointer,
        code.columns,
        torch.zeros_like(code.values),
        (code.num_rows, code.num_columns),
        check_invariants=False,  # repeated and unsorted columns are fine: each entry stands alone
    )
    products: Tensor = torch.sparse.sampled_addmm(mask, left_ND, right_MD.T, beta=0.0)
    return products.values()


@functools.cache
def _take_csr_notice() -> None:
    """PyTorch says once a process that CSR tensors are in beta: nothing that our users could act upon."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        pointer = torch.zeros(1, dtype=torch.int64)
        torch.sparse_csr_tensor(pointer, pointer[:0], torch.zeros(0), (0, 1), check_invariants=False)
