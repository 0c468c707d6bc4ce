"""The k largest of every row, by three reads of it and a few hundred candidates.

Columns fall into groups, column modulo their number. At the k-th largest of a row's group maxima lies a floor that at
least k entries reach, and few exceed; those are the candidates, among which the k-th largest is found bit by bit.
Where equal entries make too many candidates, it is found in the row itself.

Exact, without atomics and repeatable: of equal entries the first of the candidates are taken. Shape suffixes: n rows
and m columns, G groups, C candidates at most.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.triton_kernels import on_its_device
from tide_lightning.kernels.triton_kernels.keys import bits_of, from_key, least_key, to_key

MOST = 4096
"""The largest k that this is made for."""


@on_its_device
def topk(pre_nm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of every row and their columns, both [n, k]; columns lie side by side, rows need not."""
    num_rows, num_columns = pre_nm.shape
    values_nk = pre_nm.new_empty(num_rows, k)
    columns_nk = torch.empty(num_rows, k, dtype=torch.int64, device=pre_nm.device)
    if values_nk.numel():
        num_groups, most = _sizes(num_columns, k)
        keys_nC = torch.empty(num_rows, most, dtype=torch.int32, device=pre_nm.device)
        places_nC, count_n = torch.empty_like(keys_nC), keys_nC.new_empty(num_rows)
        rows = pre_nm, pre_nm.stride(0), num_columns, k
        candidates = keys_nC, places_nC, count_n
        bits = bits_of(pre_nm)
        _candidates[(num_rows,)](
            *rows, *candidates, BITS=bits, GROUPS=num_groups, MOST=most, num_warps=_warps(num_groups)
        )
        _finish[(num_rows,)](
            *rows, *candidates, values_nk, columns_nk, BITS=bits, MOST=most, STRIP=256, num_warps=_warps(most)
        )
    return values_nk, columns_nk


def _sizes(num_columns: int, k: int) -> tuple[int, int]:
    """How many groups, and how many candidates there is room for."""
    whole = max(16, triton.next_power_of_2(num_columns))
    num_groups = min(whole, max(256, whole // 32, triton.next_power_of_2(4 * k)))
    return num_groups, int(min(whole, max(64, triton.next_power_of_2(2 * k))))


def _warps(width: int) -> int:
    return min(16, max(1, width // 256))


@triton.jit
def _kth_largest(keys, inside, k, BITS: tl.constexpr):
    """The largest bound that at least k keys reach, one bit a round, the highest first."""
    bound = tl.full([], -(2 ** (BITS - 1)), dtype=tl.int64)
    for step in range(BITS):
        trial = bound + (tl.full([], 1, dtype=tl.int64) << (BITS - 1 - step))
        reached = tl.sum((inside & (keys >= trial.to(tl.int32))).to(tl.int32), axis=0)
        bound = tl.where(reached >= k, trial, bound)
    return bound.to(tl.int32)


@triton.jit
def _candidates(
    pre, stride, num_columns, k, keys, places, count, BITS: tl.constexpr, GROUPS: tl.constexpr, MOST: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    pre += row * stride
    groups = tl.arange(0, GROUPS)
    largest = tl.full([GROUPS], least_key(BITS), dtype=tl.int32)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + first + groups, mask=inside, other=0.0)
        largest = tl.maximum(largest, tl.where(inside, to_key(numbers, BITS), least_key(BITS)))
    floor = _kth_largest(largest, groups < num_columns, k, BITS)
    number = tl.zeros([GROUPS], dtype=tl.int32)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + first + groups, mask=inside, other=0.0)
        number += (inside & (to_key(numbers, BITS) >= floor)).to(tl.int32)
    place = tl.cumsum(number, axis=0) - number
    keys += row * MOST
    places += row * MOST
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        key = to_key(tl.load(pre + first + groups, mask=inside, other=0.0), BITS)
        chosen = inside & (key >= floor)
        tl.store(keys + place, key, mask=chosen & (place < MOST))
        tl.store(places + place, first + groups, mask=chosen & (place < MOST))
        place += chosen.to(tl.int32)
    tl.store(count + row, tl.sum(number, axis=0))


@triton.jit
def _finish(
    pre,
    stride,
    num_columns,
    k,
    keys,
    places,
    count,
    values,
    columns,
    BITS: tl.constexpr,
    MOST: tl.constexpr,
    STRIP: tl.constexpr,
):
    """From the candidates; where there was no room for all of them, from the row itself."""
    row = tl.program_id(0).to(tl.int64)
    num_candidates = tl.load(count + row)
    if num_candidates <= MOST:
        _finish_among_candidates(row, num_candidates, k, keys, places, values, columns, BITS, MOST)
    else:
        _finish_in_row(row, pre, stride, num_columns, k, values, columns, BITS, STRIP)


@triton.jit
def _finish_among_candidates(
    row, num_candidates, k, keys, places, values, columns, BITS: tl.constexpr, MOST: tl.constexpr
):
    offsets = tl.arange(0, MOST)
    inside = offsets < num_candidates
    key = tl.load(keys + row * MOST + offsets, mask=inside, other=least_key(BITS))
    column = tl.load(places + row * MOST + offsets, mask=inside, other=0)
    bound = _kth_largest(key, inside, k, BITS)
    above = inside & (key > bound)
    equal = inside & (key == bound)
    num_equal_taken = k - tl.sum(above.to(tl.int32), axis=0)
    taken = above | (equal & (tl.cumsum(equal.to(tl.int32), axis=0) <= num_equal_taken))
    place = row * k + tl.cumsum(taken.to(tl.int32), axis=0) - 1
    tl.store(values + place, from_key(key, values.dtype.element_ty, BITS), mask=taken)
    tl.store(columns + place, column.to(tl.int64), mask=taken)


@triton.jit
def _finish_in_row(row, pre, stride, num_columns, k, values, columns, BITS: tl.constexpr, STRIP: tl.constexpr):
    strip = tl.arange(0, STRIP)
    bound = tl.full([], -(2 ** (BITS - 1)), dtype=tl.int64)
    for step in range(BITS):
        trial = bound + (tl.full([], 1, dtype=tl.int64) << (BITS - 1 - step))
        reached = tl.zeros([STRIP], dtype=tl.int32)
        for first in range(0, num_columns, STRIP):
            inside = first + strip < num_columns
            numbers = tl.load(pre + row * stride + first + strip, mask=inside, other=0.0)
            reached += (inside & (to_key(numbers, BITS) >= trial.to(tl.int32))).to(tl.int32)
        bound = tl.where(tl.sum(reached, axis=0) >= k, trial, bound)
    num_above = tl.zeros([STRIP], dtype=tl.int32)
    for first in range(0, num_columns, STRIP):
        inside = first + strip < num_columns
        numbers = tl.load(pre + row * stride + first + strip, mask=inside, other=0.0)
        num_above += (inside & (to_key(numbers, BITS) > bound.to(tl.int32))).to(tl.int32)
    num_equal_taken = k - tl.sum(num_above, axis=0)
    num_equal = tl.zeros([], dtype=tl.int32)
    num_taken = tl.zeros([], dtype=tl.int32)
    for first in range(0, num_columns, STRIP):
        inside = first + strip < num_columns
        numbers = tl.load(pre + row * stride + first + strip, mask=inside, other=0.0)
        key = to_key(numbers, BITS)
        equal = inside & (key == bound.to(tl.int32))
        equal_rank = num_equal + tl.cumsum(equal.to(tl.int32), axis=0)
        taken = (inside & (key > bound.to(tl.int32))) | (equal & (equal_rank <= num_equal_taken))
        place = row * k + num_taken + tl.cumsum(taken.to(tl.int32), axis=0) - 1
        tl.store(values + place, numbers, mask=taken)
        tl.store(columns + place, (first + strip).to(tl.int64), mask=taken)
        num_equal += tl.sum(equal.to(tl.int32), axis=0)
        num_taken += tl.sum(taken.to(tl.int32), axis=0)
