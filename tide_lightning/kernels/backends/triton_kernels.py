"""Sparse products and top-k as Triton kernels, for CUDA (and, by Triton's interpreter, for tests on a CPU).

No atomics: every result is written by one program that adds up in a fixed order, in float32 or wider. No [N, K, D]
tensor is made, and sizes need not be multiples of a block.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator, no-any-return"

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


def topk(pre_ND: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row and their columns, both [N, k], by columns; of equal entries the first are taken.

    A program holds one row in registers and finds the k-th largest bit by bit, so the time does not depend on k.
    """
    pre_ND = pre_ND.contiguous()
    num_rows, num_columns = pre_ND.shape
    values_NK = pre_ND.new_empty(num_rows, k)
    indices_NK = torch.empty(num_rows, k, dtype=torch.int64, device=pre_ND.device)
    if values_NK.numel():
        block = triton.next_power_of_2(num_columns)
        is_wide = pre_ND.element_size() > 2
        _largest[(num_rows,)](
            pre_ND,
            values_NK,
            indices_NK,
            num_columns,
            k,
            BITS=32 if is_wide else 16,
            BLOCK=block,
            num_warps=min(32, max(1, block // 512)),
        )
    return values_NK, indices_NK


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


@triton.jit
def _largest(pre, values, indices, num_columns, k, BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    offsets = tl.arange(0, BLOCK)
    inside = offsets < num_columns
    numbers = tl.load(pre + row * num_columns + offsets, mask=inside, other=float("-inf"))
    # Floating-point numbers as integers of the same order: negative ones count backwards.
    if BITS == 32:
        keys = numbers.to(tl.int32, bitcast=True)
        keys = keys ^ ((keys >> 31) & 0x7FFFFFFF)
    else:
        keys = numbers.to(tl.int16, bitcast=True).to(tl.int32)
        keys = keys ^ ((keys >> 15) & 0x7FFF)
    least = tl.full([], -(2 ** (BITS - 1)), dtype=tl.int64)
    # The k-th largest key: the largest bound that at least k keys reach. One bit of it a round, the highest first.
    bound = least
    for step in range(BITS):
        trial = bound + (1 << (BITS - 1 - step))
        reached = tl.sum((inside & (keys >= trial.to(tl.int32))).to(tl.int32), axis=0)
        bound = tl.where(reached >= k, trial, bound)
    bound_key = bound.to(tl.int32)
    above = inside & (keys > bound_key)
    equal = inside & (keys == bound_key)
    num_equal_taken = k - tl.sum(above.to(tl.int32), axis=0)
    equal_rank = tl.cumsum(equal.to(tl.int32), axis=0)
    taken = above | (equal & (equal_rank <= num_equal_taken))
    place = tl.cumsum(taken.to(tl.int32), axis=0) - 1
    tl.store(values + row * k + place, numbers, mask=taken)
    tl.store(indices + row * k + place, offsets.to(tl.int64), mask=taken)
