"""The best values for a code whose latents are chosen: least squares on each token's own rows of the decoder.

Shape suffixes: N tokens, M latents (d_sae), D channels, K active latents a token, Z stored entries (nnz).
"""

import torch
from torch import Tensor

from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.choice import DecodeBackend, choose_backend
from tide_lightning.kernels.csr import Csr, accumulation_dtype, even_row_pointer


@torch.no_grad()
def fit_values(
    target_ND: Tensor,
    values: Tensor,
    indices: Tensor,
    weight_MD: Tensor,
    row_pointer: Tensor | None = None,
    steps: int = 3,
    backend: DecodeBackend = "auto",
) -> Tensor:
    """Values with which the same latents decode to the target more closely; whatever would be negative is 0.

    Conjugate gradients on |target - code W|^2, all tokens at once: a step costs two sparse products, whatever the
    size of the dictionary. It works in float32 at least. A code of an exact fit stays as it is.

    Args:
        target_ND: what the code should decode to.
        values: where to begin, [N, K], or [Z] with a row pointer.
        indices: int64, of the same shape.
        weight_MD: the decoder, one row a latent.
        row_pointer: int64 [N + 1] with a flat code.
        steps: of conjugate gradients.
        backend: of the sparse products.
    """
    pointer = even_row_pointer(indices) if row_pointer is None else row_pointer
    dtype = accumulation_dtype(weight_MD.dtype)
    with torch.autocast(weight_MD.device.type, enabled=False):
        code = Csr(values.to(dtype).flatten(), indices.flatten(), pointer, len(weight_MD))
        weight_MD, product, rows_Z = weight_MD.to(dtype), BACKENDS[choose_backend(backend, code)], code.rows()

        def decoded(values_Z: Tensor) -> Tensor:
            return product.forward(Csr(values_Z, code.columns, pointer, len(weight_MD)), weight_MD)

        values_Z = code.values
        left_ND = target_ND.to(dtype) - decoded(values_Z)
        direction_Z, direction_ND, square_N = torch.zeros_like(values_Z), torch.zeros_like(left_ND), None
        for _ in range(steps):
            gradient_Z = product.grad_values(code, weight_MD, left_ND)
            gradient_ND = decoded(gradient_Z)
            before_N, square_N = square_N, (left_ND * gradient_ND).sum(1)  # of the gradient's norm
            kept_N = torch.zeros_like(square_N) if before_N is None else _ratio(square_N, before_N)
            direction_Z = gradient_Z + kept_N[rows_Z] * direction_Z
            direction_ND = gradient_ND + kept_N.unsqueeze(1) * direction_ND
            length_N = _ratio(square_N, direction_ND.square().sum(1))
            values_Z = values_Z + length_N[rows_Z] * direction_Z
            left_ND = left_ND - length_N.unsqueeze(1) * direction_ND
        return values_Z.clamp(min=0).view_as(values).to(values.dtype)


def _ratio(above_N: Tensor, below_N: Tensor) -> Tensor:
    """A quotient of squares that is 0 where nothing is left to divide by."""
    tiny = torch.finfo(below_N.dtype).tiny
    return above_N.where(below_N > tiny, 0) / below_N.clamp(min=tiny)
