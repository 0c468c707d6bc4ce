"""The sparse product and the dot products by our Triton kernels."""

from torch import Tensor

from tide_lightning.kernels import triton_kernels
from tide_lightning.kernels.csr import Csr


def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """The sparse product; sums are kept in float32, and repeatable."""
    triton_kernels.check(dense.device)
    from tide_lightning.kernels.triton_kernels import products

    product: Tensor = products.matmul(matrix, dense)
    return product


def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z]."""
    triton_kernels.check(left_ND.device)
    from tide_lightning.kernels.triton_kernels import products

    products_Z: Tensor = products.dot_products(code, left_ND, right_MD)
    return products_Z
