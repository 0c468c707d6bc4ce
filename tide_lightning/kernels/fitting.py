"""The best values for a code whose latents are chosen: least squares on each token's own rows of the decoder.

Shape suffixes: N tokens, M latents (d_sae), D channels, K active latents a token, Z stored entries (nnz).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tide_lightning.kernels import triton_kernels
from tide_lightning.kernels.backends import BACKENDS, Backend
from tide_lightning.kernels.choice import DecodeBackend, choose_backend, product_dtype
from tide_lightning.kernels.csr import Csr, accumulation_dtype, even_row_pointer

_MOST_CHANNELS = 8192  # that a program for a token keeps at hand


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

    Conjugate gradients on |target - code W|^2, in float32 at least: on a CPU all tokens at once, where a step costs two
    sparse products, whatever the size of the dictionary; on a GPU a program a token, which reads its rows once, in
    autocast's type, as they are decoded. A code of an exact fit stays as it is.

    The target gets the solution's gradient, by as many steps. Nothing else does: the solution does not depend on where
    it began, and how it depends on the weight is left out.

    Args:
        target_ND: what the code should decode to.
        values: where to begin, [N, K], or [Z] with a row pointer.
        indices: int64, of the same shape.
        weight_MD: the decoder, one row a latent.
        row_pointer: int64 [N + 1] with a flat code.
        steps: of conjugate gradients.
        backend: of the sparse products.
    """
    in_triton = weight_MD.shape[1] <= _MOST_CHANNELS and triton_kernels.chosen_for(weight_MD, backend)
    dtype = accumulation_dtype(weight_MD.dtype)
    fitted_Z: Tensor = _Fit.apply(  # type: ignore[no-untyped-call]
        target_ND.to(dtype),
        values.detach().to(dtype).flatten(),
        indices.flatten(),
        weight_MD.detach().to(product_dtype(values, weight_MD) if in_triton else dtype),
        even_row_pointer(indices) if row_pointer is None else row_pointer,
        indices.shape[1] if row_pointer is None else None,
        steps,
        backend,
        in_triton,
    )
    return fitted_Z.view_as(values).to(values.dtype)


class _Fit(torch.autograd.Function):
    """The type is settled before, so autocast is off inside."""

    @staticmethod
    def forward(
        ctx: Any,
        target_ND: Tensor,
        values_Z: Tensor,
        indices_Z: Tensor,
        weight_MD: Tensor,
        row_pointer: Tensor,
        longest: int | None,
        steps: int,
        wanted: DecodeBackend,
        in_triton: bool,
    ) -> Tensor:
        code = Csr(values_Z, indices_Z, row_pointer, len(weight_MD))
        with torch.autocast(weight_MD.device.type, enabled=False):
            if in_triton:
                from tide_lightning.kernels.triton_kernels import fitting

                fitted_Z = fitting.fit(target_ND, code, weight_MD, steps, longest)
            else:
                fitted_Z = _Rows(code, weight_MD, wanted).fit(target_ND, values_Z, steps)
            fitted_Z = fitted_Z.clamp(min=0)
        ctx.save_for_backward(fitted_Z, indices_Z, weight_MD, row_pointer)
        ctx.steps, ctx.wanted = steps, wanted
        return fitted_Z

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_Z: Tensor) -> tuple[Tensor | None, ...]:
        fitted_Z, indices_Z, weight_MD, row_pointer = ctx.saved_tensors
        with torch.autocast(weight_MD.device.type, enabled=False):
            code = Csr(fitted_Z, indices_Z, row_pointer, len(weight_MD))
            rows = _Rows(code, weight_MD.to(fitted_Z.dtype), ctx.wanted)
            solved_Z = rows.solve(grad_Z, fitted_Z > 0, ctx.steps)
            return rows.decoded(solved_Z), None, None, None, None, None, None, None, None


class _Rows:
    """Each token's own rows of the weight, as a linear map from values to what they decode to, and back."""

    def __init__(self, code: Csr, weight_MD: Tensor, wanted: DecodeBackend) -> None:
        self.code, self.weight_MD = code, weight_MD
        self.product: Backend = BACKENDS[choose_backend(wanted, code)]
        self.tokens_Z = code.rows()

    def decoded(self, values_Z: Tensor) -> Tensor:
        """Values times rows, [N, D]."""
        return self.product.forward(self._with(values_Z), self.weight_MD)

    def _with(self, values_Z: Tensor) -> Csr:
        return Csr(values_Z, self.code.columns, self.code.row_pointer, self.code.num_columns)

    def read(self, token_ND: Tensor) -> Tensor:
        """The token times each of its rows, [Z]."""
        return self.product.grad_values(self.code, self.weight_MD, token_ND)

    def squares(self, values_Z: Tensor) -> Tensor:
        """Each token's sum of squares, [N]; by the same repeatable product."""
        ones_M1 = self.weight_MD.new_ones(len(self.weight_MD), 1)
        return self.product.forward(self._with(values_Z.square()), ones_M1).squeeze(1)

    def fit(self, target_ND: Tensor, values_Z: Tensor, steps: int) -> Tensor:
        """Values whose decoding comes close to the target; norms come along with what is decoded anyway.

        A gradient as small as rounding leaves it counts as none: steps along it, found from such norms, lead anywhere.
        """
        left_ND = target_ND - self.decoded(values_Z)
        rounding_N = (16 * torch.finfo(target_ND.dtype).eps) ** 2 * target_ND.square().sum(1)
        direction_Z, direction_ND, square_N = torch.zeros_like(values_Z), torch.zeros_like(left_ND), None
        for _ in range(steps):
            gradient_Z = self.read(left_ND)
            gradient_ND = self.decoded(gradient_Z)
            along_N = (left_ND * gradient_ND).sum(1)  # the gradient's square
            before_N, square_N = square_N, along_N.where(along_N > rounding_N, 0)
            kept_N = torch.zeros_like(square_N) if before_N is None else _ratio(square_N, before_N)
            direction_Z = gradient_Z + kept_N[self.tokens_Z] * direction_Z
            direction_ND = gradient_ND + kept_N.unsqueeze(1) * direction_ND
            length_N = _ratio(square_N, direction_ND.square().sum(1))
            values_Z = values_Z + length_N[self.tokens_Z] * direction_Z
            left_ND = left_ND - length_N.unsqueeze(1) * direction_ND
        return values_Z

    def solve(self, wanted_Z: Tensor, among_Z: Tensor, steps: int) -> Tensor:
        """Values among some entries for which rows times what they decode to is what is wanted there."""
        left_Z, values_Z = wanted_Z.where(among_Z, 0), torch.zeros_like(wanted_Z)
        direction_Z, square_N = left_Z, self.squares(left_Z)
        for _ in range(steps):
            direction_ND = self.decoded(direction_Z)
            length_Z = _ratio(square_N, direction_ND.square().sum(1))[self.tokens_Z]
            values_Z = values_Z + length_Z * direction_Z
            left_Z = left_Z - length_Z * self.read(direction_ND).where(among_Z, 0)
            before_N, square_N = square_N, self.squares(left_Z)
            direction_Z = left_Z + _ratio(square_N, before_N)[self.tokens_Z] * direction_Z
        return values_Z


def _ratio(above_N: Tensor, below_N: Tensor) -> Tensor:
    """A quotient of squares that is 0 where nothing is left to divide by."""
    tiny = torch.finfo(below_N.dtype).tiny
    return above_N.where(below_N > tiny, 0) / below_N.clamp(min=tiny)
