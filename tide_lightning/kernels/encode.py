"""Sparse encoding: product, bias, ReLU and selection as one operation that keeps nothing of the size [N, M].

Pre-activations come and go as blocks; the backward is a sparse product with the gradient of the code, the same that
decoding is made of.

Shape suffixes: N tokens, M latents (d_sae), D channels, K active latents a token, Z stored entries (nnz), L dead
latents.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tide_lightning.kernels import triton_kernels
from tide_lightning.kernels.aux import AuxCode, add_to_rows, aux_csr
from tide_lightning.kernels.backends import BACKENDS
from tide_lightning.kernels.blocks import Block, BlockShape, block_shape, preactivation_blocks
from tide_lightning.kernels.choice import DecodeBackend, choose_backend, product_dtype
from tide_lightning.kernels.csr import Csr, even_row_pointer, expand_row_pointer
from tide_lightning.kernels.selection import Rule, Selected, Selection, TopK


class Encoded(NamedTuple):
    """The code of a batch of tokens.

    Fields:
        values: [N, K], or [Z] with a row pointer; never negative, and 0 where nothing positive was left to select.
        indices: int64, of the same shape.
        row_pointer: None, or int64 [N + 1] where tokens have different numbers of latents.
        aux: the code of the dead latents alone, where any were named.
    """

    values: Tensor
    indices: Tensor
    row_pointer: Tensor | None
    aux: AuxCode | None


def encode(
    x_ND: Tensor,
    weight_MD: Tensor,
    bias_M: Tensor | None,
    rule: Rule,
    dead_L: Tensor | None = None,
    k_aux: int = 0,
    backend: DecodeBackend = "auto",
    start: Selected | None = None,
    offset_D: Tensor | None = None,
) -> Encoded:
    """The code of every token: what `rule` selects of relu(start + (x - offset) W^T + b).

    Gradients reach x, weight, bias, offset and the start's values through what was selected. Under autocast the
    operands are cast like those of a matrix product and sums are kept in float32.

    Args:
        x_ND: the tokens.
        weight_MD: the encoder, one row a latent.
        bias_M: of the latents, or None.
        rule: which pre-activations are kept.
        dead_L: int64, latents of which each token also gets a code of their own, for AuxK; each once, in order.
        k_aux: how many of them at most, a token.
        backend: of the sparse products in the backward.
        start: a code that the pre-activations are added to, each latent once a token.
        offset_D: subtracted from every token. Where x itself needs no gradient, the offset's costs one product of the
            weight with a vector, and none with a token for each row.
    """
    dtype = product_dtype(x_ND, weight_MD)
    start_values, *start_places = (None, None, None) if start is None else (start.values.to(dtype), *start[1:])
    if offset_D is not None:
        x_ND = x_ND - offset_D.detach()  # its gradient is the operation's own business
    values, indices, row_pointer, aux_values, places = _Encode.apply(  # type: ignore[no-untyped-call]
        x_ND.to(dtype),
        weight_MD.to(dtype),
        None if bias_M is None else bias_M.to(dtype),
        None if offset_D is None else offset_D.to(dtype),
        start_values,
        *start_places,
        rule,
        dead_L,
        k_aux,
        backend,
    )
    aux = None if dead_L is None or aux_values is None else AuxCode(aux_values, places, dead_L)
    return Encoded(values, indices, row_pointer, aux)


class _Encode(torch.autograd.Function):
    """Saves x, the weight and the codes. The type is settled before, so autocast is off inside."""

    @staticmethod
    def forward(
        ctx: Any,
        x_ND: Tensor,
        weight_MD: Tensor,
        bias_M: Tensor | None,
        offset_D: Tensor | None,
        start_values: Tensor | None,
        start_indices: Tensor | None,
        start_row_pointer: Tensor | None,
        rule: Rule,
        dead_L: Tensor | None,
        k_aux: int,
        backend: DecodeBackend,
    ) -> tuple[Tensor | None, ...]:
        start = None
        if start_values is not None and start_indices is not None:
            pointer = even_row_pointer(start_indices) if start_row_pointer is None else start_row_pointer
            start = Csr(start_values.flatten(), start_indices.flatten(), pointer, len(weight_MD))
        with torch.autocast(weight_MD.device.type, enabled=False):
            in_triton = triton_kernels.chosen_for(x_ND, backend)
            shape, selection = block_shape(x_ND, len(weight_MD)), rule.start(len(x_ND), len(weight_MD), in_triton)
            blocks = preactivation_blocks(x_ND, weight_MD, bias_M, shape, start, selection.room, in_triton)
            aux = _select(selection, blocks, shape, x_ND, len(weight_MD), dead_L, k_aux, in_triton)
            code = selection.finish()
        start_at = (start_indices, start.row_pointer) if start and ctx.needs_input_grad[4] else (None, None)
        ctx.save_for_backward(x_ND, weight_MD, *code, *aux, dead_L, *start_at)
        ctx.backend, ctx.in_triton = backend, in_triton
        ctx.set_materialize_grads(False)
        integers = (code.indices, code.row_pointer, aux[1])
        ctx.mark_non_differentiable(*(tensor for tensor in integers if tensor is not None))
        return (*code, *aux)

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_values: Tensor | None, _: None, __: None, grad_aux_NK: Tensor | None, ___: None
    ) -> tuple[Tensor | None, ...]:
        x_ND, weight_MD, values, indices, row_pointer, aux_values_NK, places_NK, dead_L, *start_at = ctx.saved_tensors
        if grad_values is None:  # only the dead latents' code was used
            grad_values = torch.zeros_like(values)
        if row_pointer is None:
            row_pointer = even_row_pointer(indices)
        needs_x, needs_weight, needs_bias, needs_offset, needs_start = ctx.needs_input_grad[:5]
        # The tokens' gradients add up to that of the offset; where nobody asks for each, sum first and multiply then.
        needed = needs_x, needs_weight, needs_bias or (needs_offset and not needs_x)
        with torch.autocast(weight_MD.device.type, enabled=False):
            through_relu = grad_values.where(values > 0, 0).flatten()
            code = Csr(through_relu, indices.flatten(), row_pointer, len(weight_MD))
            grad_x, grad_weight, grad_bias = _gradients(code, x_ND, weight_MD, ctx.backend, needed)
            grad_start = _at(code, start_at, ctx.in_triton) if needs_start else None
            if grad_aux_NK is not None:
                aux = aux_csr(grad_aux_NK.where(aux_values_NK > 0, 0), places_NK, dead_L)
                weight_LD = weight_MD.index_select(0, dead_L)
                aux_x, aux_weight, aux_bias = _gradients(aux, x_ND, weight_LD, ctx.backend, needed)
                if grad_x is not None:
                    grad_x += aux_x
                if grad_weight is not None:
                    add_to_rows(grad_weight, dead_L, aux_weight)
                if grad_bias is not None:
                    add_to_rows(grad_bias, dead_L, aux_bias)
                if grad_start is not None:
                    spread = Csr(aux.values, dead_L[aux.columns], aux.row_pointer, len(weight_MD))
                    grad_start += _at(spread, start_at, ctx.in_triton)
            grad_offset = None
            if needs_offset:
                grad_offset = -(grad_x.sum(0) if needs_x else (grad_bias.unsqueeze(0) @ weight_MD).squeeze(0))
        grad_bias = grad_bias if needs_bias else None
        return grad_x, grad_weight, grad_bias, grad_offset, grad_start, None, None, None, None, None, None


def _select(
    selection: Selection,
    blocks: Iterator[Block],
    shape: BlockShape,
    x_ND: Tensor,
    num_latents: int,
    dead_L: Tensor | None,
    k_aux: int,
    in_triton: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Show all blocks to the selection; return values and places of the dead latents' code."""
    if dead_L is None or k_aux < 1 or len(dead_L) == 0:
        for block in blocks:
            selection.see(block)
        return None, None
    # The dead latents' pre-activations are collected over a row of blocks and selected from at once.
    aux_selection = TopK(min(k_aux, len(dead_L))).start(len(x_ND), len(dead_L), in_triton)
    memory_nL = x_ND.new_empty(shape.tokens, len(dead_L))
    dead_before = _dead_before(dead_L, list(range(0, num_latents, shape.latents)))
    for block in blocks:
        selection.see(block)
        pre_nm, latent = block.pre_nm, block.first_latent
        first, end = dead_before[latent // shape.latents], dead_before[latent // shape.latents + 1]
        dead_pre_nL = memory_nL[: len(pre_nm)]
        dead_pre_nL[:, first:end] = pre_nm.index_select(1, dead_L[first:end] - latent)
        if latent + pre_nm.shape[1] == num_latents:
            aux_selection.see(Block(dead_pre_nL, block.first_token, 0, dead_pre_nL))
    aux = aux_selection.finish()
    return aux.values, aux.indices


def _dead_before(dead_L: Tensor, first_latents: list[int]) -> list[int]:
    """How many dead latents come before each block, and in all; one block needs no answer from the device."""
    inner = first_latents[1:]
    before = torch.searchsorted(dead_L, torch.tensor(inner, device=dead_L.device)).tolist() if inner else []
    return [0, *before, len(dead_L)]


def _gradients(
    code: Csr, x_ND: Tensor, weight_MD: Tensor, wanted: DecodeBackend, needed: tuple[bool, bool, bool]
) -> tuple[Any, Any, Any]:
    """Of x, weight and bias (None where not needed), given that of the pre-activations, as sparse as the code."""
    backend = BACKENDS[choose_backend(wanted, code)]
    grad_x_ND = backend.forward(code, weight_MD).to(x_ND.dtype) if needed[0] else None
    grad_weight_MD = backend.grad_weight(code, x_ND).to(x_ND.dtype) if needed[1] else None
    grad_bias_M = None
    if needed[2]:  # sums over tokens, by the same repeatable product
        grad_bias_M = backend.grad_weight(code, x_ND.new_ones(len(x_ND), 1)).squeeze(1).to(x_ND.dtype)
    return grad_x_ND, grad_weight_MD, grad_bias_M


def _at(gradient: Csr, start_at: list[Tensor], in_triton: bool) -> Tensor:
    """What a sparse gradient, each place once, holds where another code has its entries; 0 where it holds nothing."""
    indices, row_pointer = start_at
    if in_triton:
        from tide_lightning.kernels.triton_kernels import codes

        found_Z: Tensor = codes.look_up(gradient, indices.flatten(), row_pointer)
        return found_Z.view_as(indices)
    if gradient.columns.numel() == 0:
        return gradient.values.new_zeros(indices.shape)
    wanted = expand_row_pointer(row_pointer, indices.numel()) * gradient.num_columns + indices.flatten()
    places_Z, order_Z = gradient.places().sort()
    found = torch.searchsorted(places_Z, wanted).clamp(max=len(places_Z) - 1)
    return gradient.values[order_Z[found]].where(places_Z[found] == wanted, 0).view_as(indices)
