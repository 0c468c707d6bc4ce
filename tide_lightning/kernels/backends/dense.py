"""Sparse products with the code written out as a matrix: the fastest way for codes that are hardly sparse."""

from torch import Tensor

from tide_lightning.kernels.csr import Csr


class DenseBackend:
    """Three matrix products over all latents."""

    def forward(self, code: Csr, weight_MD: Tensor) -> Tensor:
        """The decoded tokens, [N, D]."""
        return code.written_out() @ weight_MD

    def grad_values(self, code: Csr, weight_MD: Tensor, grad_ND: Tensor) -> Tensor:
        """The gradient of the code's values, [Z]."""
        return (grad_ND @ weight_MD.T).flatten().gather(0, code.places())

    def grad_weight(self, code: Csr, grad_ND: Tensor) -> Tensor:
        """The gradient of the weight, [M, D]."""
        return code.written_out().T @ grad_ND
