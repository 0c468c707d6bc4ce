"""The sparse product as sums of weighted rows, the job of `embedding_bag`: fast on the CPU, in bf16 too.

No atomics: every bag is added up in order, whatever the number of threads.
"""

import torch.nn.functional as F
from torch import Tensor

from tide_lightning.kernels.csr import Csr


def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """The product, one bag a row; sums are kept in float32."""
    return F.embedding_bag(
        matrix.columns,
        dense,
        matrix.row_pointer,
        mode="sum",
        per_sample_weights=matrix.values,
        include_last_offset=True,
    )
