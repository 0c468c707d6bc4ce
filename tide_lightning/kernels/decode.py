"""Sparse decoding, sum over a token's active latents of value times decoder row, with its gradients.

Shape suffixes: N tokens, M latents (d_sae), D channels, K active latents a token, Z stored entries (nnz), L latents of
an auxiliary code.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tide_lightning.kernels.aux import AuxCode, add_to_rows, aux_csr
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.choice import DecodeBackend, choose_backend, product_dtype
from tide_lightning.kernels.csr import Csr, even_row_pointer


def decode(
    values: Tensor,
    indices: Tensor,
    weight_MD: Tensor,
    row_pointer: Tensor | None = None,
    backend: DecodeBackend = "auto",
) -> Tensor:
    """The decoded tokens, [N, D]: every token's sum of values times rows of the weight.

    Gradients reach values and weight; repeated indices add up. Under autocast the operands are cast like
    those of a matrix product, sums are kept in float32, and gradients come back in each operand's own type.

    Args:
        values: [N, K], or [Z] where tokens have different numbers of active latents.
        indices: int64, the rows of the weight, of the same shape as values.
        weight_MD: the decoder, one row a latent.
        row_pointer: int64 [N + 1] with a flat code: where in it each token starts, and its length.
        backend: `auto` takes the one measured as fastest for this density and device, and logs which.
    """
    return decode_with_aux(values, indices, weight_MD, None, row_pointer, backend)[0]


def decode_with_aux(
    values: Tensor,
    indices: Tensor,
    weight_MD: Tensor,
    aux: AuxCode | None,
    row_pointer: Tensor | None = None,
    backend: DecodeBackend = "auto",
) -> tuple[Tensor, Tensor | None]:
    """What `decode` gives, and what the auxiliary code alone decodes to: two results with one gradient of the weight.

    Args:
        values: as of `decode`.
        indices: as of `decode`.
        weight_MD: as of `decode`.
        aux: of the dead latents; its backend is chosen by its own density.
        row_pointer: as of `decode`.
        backend: as of `decode`.
    """
    if row_pointer is None:
        row_pointer = even_row_pointer(indices)
    dtype = product_dtype(values, weight_MD)
    aux_parts = (None, None, None) if aux is None else (aux.values.to(dtype), aux.places, aux.latents)
    decoded: Tensor
    aux_decoded: Tensor | None
    decoded, aux_decoded = _Decode.apply(  # type: ignore[no-untyped-call]
        weight_MD.to(dtype), backend, values.to(dtype).flatten(), indices.flatten(), row_pointer, *aux_parts
    )
    return decoded, aux_decoded


class _Decode(torch.autograd.Function):
    """The products and their gradients. The type is settled before, so autocast is off inside."""

    @staticmethod
    def forward(
        ctx: Any,
        weight_MD: Tensor,
        wanted: DecodeBackend,
        values_Z: Tensor,
        indices_Z: Tensor,
        row_pointer: Tensor,
        aux_values_NK: Tensor | None,
        places_NK: Tensor | None,
        latents_L: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(weight_MD, values_Z, indices_Z, row_pointer, aux_values_NK, places_NK, latents_L)
        ctx.wanted = wanted
        ctx.set_materialize_grads(False)
        code = Csr(values_Z, indices_Z, row_pointer, num_columns=len(weight_MD))
        with torch.autocast(weight_MD.device.type, enabled=False):
            decoded_ND = BACKENDS[choose_backend(wanted, code)].forward(code, weight_MD).to(weight_MD.dtype)
            if aux_values_NK is None or places_NK is None or latents_L is None:
                return decoded_ND, None
            aux = aux_csr(aux_values_NK, places_NK, latents_L)
            weight_LD = weight_MD.index_select(0, latents_L)
            return decoded_ND, BACKENDS[choose_backend(wanted, aux)].forward(aux, weight_LD).to(weight_MD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_ND: Tensor | None, aux_grad_ND: Tensor | None) -> tuple[Tensor | None, ...]:
        weight_MD, values_Z, indices_Z, row_pointer, aux_values_NK, places_NK, latents_L = ctx.saved_tensors
        if grad_ND is None:  # only what the auxiliary code decodes to was used
            grad_ND = weight_MD.new_zeros(row_pointer.numel() - 1, weight_MD.shape[1])
        needed = ctx.needs_input_grad[0], ctx.needs_input_grad[2]
        with torch.autocast(weight_MD.device.type, enabled=False):
            code = Csr(values_Z, indices_Z, row_pointer, num_columns=len(weight_MD))
            grad_weight_MD, grad_values_Z = _gradients(code, weight_MD, grad_ND, ctx.wanted, needed)
            grad_aux_NK = None
            if aux_grad_ND is not None:
                needed = ctx.needs_input_grad[0], ctx.needs_input_grad[5]
                aux = aux_csr(aux_values_NK, places_NK, latents_L)
                weight_LD = weight_MD.index_select(0, latents_L)
                aux_weight_LD, grad_aux_Z = _gradients(aux, weight_LD, aux_grad_ND, ctx.wanted, needed)
                grad_aux_NK = None if grad_aux_Z is None else grad_aux_Z.view_as(places_NK)
                if grad_weight_MD is not None:
                    add_to_rows(grad_weight_MD, latents_L, aux_weight_LD)
        return grad_weight_MD, None, grad_values_Z, None, None, grad_aux_NK, None, None


def _gradients(
    code: Csr, weight_MD: Tensor, grad_ND: Tensor, wanted: DecodeBackend, needed: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Of weight and values; None where not needed."""
    backend, grad_ND = BACKENDS[choose_backend(wanted, code)], grad_ND.contiguous()
    grad_weight_MD = backend.grad_weight(code, grad_ND).to(weight_MD.dtype) if needed[0] else None
    grad_values_Z = backend.grad_values(code, weight_MD, grad_ND).to(weight_MD.dtype) if needed[1] else None
    return grad_weight_MD, grad_values_Z
