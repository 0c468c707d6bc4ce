"""The sparse product by PyTorch's COO tensors; their own backward makes a dense [N, M] gradient."""

import torch
from torch import Tensor

from tide_lightning.kernels.csr import Csr, accumulation_dtype


def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """The product; 16-bit operands as float32: CUDA has no bf16 here, and the CPU would add up in it."""
    dtype = accumulation_dtype(dense.dtype)
    coo = torch.sparse_coo_tensor(
        torch.stack([matrix.rows(), matrix.columns]),
        matrix.values.to(dtype),
        (matrix.num_rows, matrix.num_columns),
        is_coalesced=True,  # sorted by row, which is all that the product needs; saves a sort on CUDA
        check_invariants=False,
    )
    product: Tensor = torch.sparse.mm(coo, dense.to(dtype))
    return product
