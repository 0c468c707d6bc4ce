"""Sparse products as Triton kernels, for CUDA (and, by Triton's interpreter, for tests on a CPU).

No atomics: every result is written by one program that adds up in a fixed order, in float32 or wider. No [N, K, D]
tensor is made, and sizes need not be multiples of a block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.csr import Csr
from tide_lightning.kernels.triton_kernels import on_its_device

_MOST_CHANNELS_A_PROGRAM = 1024
_ENTRIES_A_PROGRAM = 16


@on_its_device
def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """A sparse matrix times a dense one: a program adds up the weighted rows of one result row, a block of columns."""
    dense = dense.contiguous()
    num_columns = dense.shape[1]
    product = dense.new_empty(matrix.num_rows, num_columns)
    block = min(_MOST_CHANNELS_A_PROGRAM, triton.next_power_of_2(max(1, num_columns)))
    if product.numel():
        grid = (matrix.num_rows, triton.cdiv(num_columns, block))
        code = matrix.values, matrix.columns, matrix.row_pointer
        _weighted_rows[grid](*code, dense, product, num_columns, BLOCK=block, SUM=_sum_dtype(dense))
    return product


@on_its_device
def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z]: a program for some entries in a row."""
    left_ND, right_MD = left_ND.contiguous(), right_MD.contiguous()
    products_Z = left_ND.new_empty(code.columns.numel())
    if products_Z.numel():
        operands = code.rows(), code.columns, left_ND, right_MD, products_Z
        sizes = len(products_Z), left_ND.shape[1]
        blocks = {"ENTRIES": _ENTRIES_A_PROGRAM, "BLOCK": 128 // left_ND.element_size()}
        _dot[(triton.cdiv(len(products_Z), _ENTRIES_A_PROGRAM),)](*operands, *sizes, **blocks, SUM=_sum_dtype(left_ND))
    return products_Z


def _sum_dtype(operand: Tensor) -> tl.dtype:
    return tl.float64 if operand.dtype == torch.float64 else tl.float32


@triton.jit
def _weighted_rows(values, columns, row_pointer, dense, product, num_columns, BLOCK: tl.constexpr, SUM: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = offsets < num_columns
    total = tl.zeros([BLOCK], dtype=SUM)
    first = tl.load(row_pointer + row)
    end = tl.load(row_pointer + row + 1)
    for entry in range(first, end):
        column = tl.load(columns + entry)
        weight = tl.load(values + entry).to(SUM)
        total += weight * tl.load(dense + column * num_columns + offsets, mask=inside, other=0.0).to(SUM)
    tl.store(product + row * num_columns + offsets, total.to(product.dtype.element_ty), mask=inside)


@triton.jit
def _dot(
    rows,
    columns,
    left,
    right,
    products,
    num_entries,
    num_channels,
    ENTRIES: tl.constexpr,
    BLOCK: tl.constexpr,
    SUM: tl.constexpr,
):
    entry = tl.program_id(0) * ENTRIES + tl.arange(0, ENTRIES)
    inside = entry < num_entries
    left_rows = left + tl.load(rows + entry, mask=inside, other=0)[:, None] * num_channels
    right_rows = right + tl.load(columns + entry, mask=inside, other=0)[:, None] * num_channels
    total = tl.zeros([ENTRIES, BLOCK], dtype=SUM)
    for first in range(0, num_channels, BLOCK):
        channel = first + tl.arange(0, BLOCK)[None, :]
        mask = inside[:, None] & (channel < num_channels)
        left_part = tl.load(left_rows + channel, mask=mask, other=0.0).to(SUM)
        total += left_part * tl.load(right_rows + channel, mask=mask, other=0.0).to(SUM)
    tl.store(products + entry, tl.sum(total, axis=1).to(products.dtype.element_ty), mask=inside)
