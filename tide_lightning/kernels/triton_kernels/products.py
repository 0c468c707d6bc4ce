"""Sparse products as Triton kernels, for CUDA (and, by Triton's interpreter, for tests on a CPU).

No atomics: every result is written by one program that adds up in a fixed order, in float32 or wider. No [N, K, D]
tensor is made, and sizes need not be multiples of a block.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.csr import Csr

_MOST_CHANNELS_A_PROGRAM = 1024


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


def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z]: a program an entry."""
    left_ND, right_MD = left_ND.contiguous(), right_MD.contiguous()
    num_channels = left_ND.shape[1]
    products_Z = left_ND.new_empty(code.columns.numel())
    block = min(_MOST_CHANNELS_A_PROGRAM, triton.next_power_of_2(max(1, num_channels)))
    if products_Z.numel():
        operands = code.rows(), code.columns, left_ND, right_MD
        _dot[(len(products_Z),)](*operands, products_Z, num_channels, BLOCK=block, SUM=_sum_dtype(left_ND))
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
def _dot(rows, columns, left, right, products, num_channels, BLOCK: tl.constexpr, SUM: tl.constexpr):
    entry = tl.program_id(0).to(tl.int64)
    left_row = left + tl.load(rows + entry) * num_channels
    right_row = right + tl.load(columns + entry) * num_channels
    total = tl.zeros([BLOCK], dtype=SUM)
    for start in range(0, num_channels, BLOCK):
        offsets = start + tl.arange(0, BLOCK)
        inside = offsets < num_channels
        left_part = tl.load(left_row + offsets, mask=inside, other=0.0).to(SUM)
        total += left_part * tl.load(right_row + offsets, mask=inside, other=0.0).to(SUM)
    tl.store(products + entry, tl.sum(total, axis=0).to(products.dtype.element_ty))
