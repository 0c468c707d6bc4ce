"""The sparse product by the torch-sparse extension: by `matmul`, as its `spmm` makes an [N, K, D] tensor."""

import functools
import warnings
from types import ModuleType

from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels.csr import Csr, accumulation_dtype
from tide_lightning.threads import filtering_warnings


def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """The product; 16-bit operands as float32: the extension has no bf16 on CUDA."""
    library = _library()
    dtype = accumulation_dtype(dense.dtype)
    if 0 in (matrix.num_rows, matrix.num_columns):  # the extension divides by both, and kills the process
        return dense.new_zeros(matrix.num_rows, dense.shape[1])
    sparse = library.SparseTensor(
        rowptr=matrix.row_pointer,
        col=matrix.columns,
        value=matrix.values.to(dtype),
        sparse_sizes=(matrix.num_rows, matrix.num_columns),
        is_sorted=True,
        trust_data=True,
    )
    product: Tensor = library.matmul(sparse, dense.to(dtype), reduce="sum")
    return product


@functools.cache
def _library() -> ModuleType:
    try:
        with filtering_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # it scripts its functions on import
            import torch_sparse
    except (ImportError, OSError) as error:  # OSError: built for another PyTorch
        raise UserError(
            f"decode backend 'torch_sparse' needs torch-sparse built for this PyTorch ({error}): "
            "run `make torch-sparse`, or choose 'auto'"
        ) from error
    module: ModuleType = torch_sparse
    return module
