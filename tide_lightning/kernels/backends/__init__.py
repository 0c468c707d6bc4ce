"""The ways to multiply a sparse code by the decoder, and back."""

from typing import Protocol

from torch import Tensor

from tide_lightning.kernels.backends import coo, embedding_bag, torch_sparse, triton
from tide_lightning.kernels.backends.dense import DenseBackend
from tide_lightning.kernels.backends.gathering import GatheringBackend
from tide_lightning.kernels.csr import Csr


class Backend(Protocol):
    """One operation and its two gradients.

    Sums are kept in float32 or wider, and on the CPU they are bitwise repeatable. A result may be of a wider
    type than the operands: `decode` rounds it.
    """

    def forward(self, code: Csr, weight_MD: Tensor) -> Tensor:
        """The decoded tokens, [N, D]: code times weight."""

    def grad_values(self, code: Csr, weight_MD: Tensor, grad_ND: Tensor) -> Tensor:
        """The gradient of the code's values, [Z]: one dot product for each stored entry."""

    def grad_weight(self, code: Csr, grad_ND: Tensor) -> Tensor:
        """The gradient of the weight, [M, D]: the transposed code times the gradient."""


BACKENDS: dict[str, Backend] = {
    "dense": DenseBackend(),
    "coo": GatheringBackend(coo.matmul),
    "embedding_bag": GatheringBackend(embedding_bag.matmul),
    "torch_sparse": GatheringBackend(torch_sparse.matmul),
    "triton": GatheringBackend(triton.matmul, triton.dot_products),
}
