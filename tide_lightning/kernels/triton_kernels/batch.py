"""The largest entries of a whole matrix, by a few reads of it; what each passes on to the next is small.

1. Columns fall into groups, column modulo their number. Of the keys (see keys.py) of every row's group maxima a
   histogram is made: a floor that as many entries reach as are wanted, and few exceed.
2. A histogram of the keys from the floor up (for keys of 32 bits two, by their upper and their lower half) has the key
   of the last entry that is taken, and tells how many of its equals are.
3. Every row's groups count what they will write, the sums give each row its place, and what is taken is written.

Exact and repeatable: histograms count by integer atomics, and of equal entries the first rows' and groups' are taken.
Shape suffixes: n rows and m columns, G groups, B bins, Z entries taken.
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.selection.interface import Selected
from tide_lightning.kernels.triton_kernels import on_its_device
from tide_lightning.kernels.triton_kernels.keys import bits_of, least_key, to_key, weight_of

_BINS = 2**16
_COPIES = 8  # of each histogram: so that the GPU's programs stand less in each other's way


class _Matrix(NamedTuple):
    """The entries, by which weights their rows are compared, and how the kernels see them."""

    pre_nm: Tensor
    weight_n: Tensor | None
    groups: int

    @property
    def bits(self) -> int:
        """Of a key: products with a weight are float32."""
        return 32 if self.weight_n is not None else bits_of(self.pre_nm)

    @property
    def arguments(self) -> tuple[Tensor, Tensor, int, int]:
        """What all kernels begin with; without weights, any tensor stands for them."""
        weight = self.pre_nm if self.weight_n is None else self.weight_n
        return self.pre_nm, weight, self.pre_nm.stride(0), self.pre_nm.shape[1]

    @property
    def constants(self) -> dict[str, int]:
        """What all kernels are compiled for."""
        warps = min(16, max(1, self.groups // 256))
        return {"BITS": self.bits, "WEIGHTED": self.weight_n is not None, "GROUPS": self.groups, "num_warps": warps}


@on_its_device
def largest(pre_nm: Tensor, weight_n: Tensor | None, num_taken: int) -> Selected:
    """The largest entries of all rows, or all where there are no more; their order in a row is no particular one.

    Args:
        pre_nm: the entries; columns lie side by side, rows need not.
        weight_n: positive, by which a row's entries count; values are as without.
        num_taken: how many.
    """
    num_rows, num_columns = pre_nm.shape
    num_taken = min(num_taken, num_rows * num_columns)
    values_Z = pre_nm.new_empty(num_taken)
    columns_Z = torch.empty(num_taken, dtype=torch.int64, device=pre_nm.device)
    row_pointer = torch.zeros(num_rows + 1, dtype=torch.int64, device=pre_nm.device)
    if num_taken:
        num_groups = _num_groups(num_columns, triton.cdiv(num_taken, num_rows))
        matrix = _Matrix(pre_nm, None if weight_n is None else weight_n.float(), num_groups)
        bound, num_equal = _last_taken(matrix, num_taken)
        counts_nG = torch.empty(num_rows, matrix.groups, dtype=torch.int32, device=pre_nm.device)
        above_n, equal_n = torch.empty(2, num_rows, dtype=torch.int64, device=pre_nm.device)
        _count[(num_rows,)](*matrix.arguments, bound, counts_nG, above_n, equal_n, **matrix.constants)
        equal_before_n = equal_n.cumsum(0) - equal_n
        equal_taken_n = torch.minimum((num_equal - equal_before_n).clamp(min=0), equal_n)
        torch.cumsum(above_n + equal_taken_n, 0, out=row_pointer[1:])
        places = counts_nG, row_pointer, equal_taken_n
        _write[(num_rows,)](*matrix.arguments, bound, *places, values_Z, columns_Z, **matrix.constants)
    return Selected(values_Z, columns_Z, row_pointer)


def _num_groups(num_columns: int, num_taken_a_row: int) -> int:
    """Many more than entries that a row has taken, on average."""
    whole = max(16, triton.next_power_of_2(num_columns))
    return int(min(whole, max(256, triton.next_power_of_2(8 * num_taken_a_row))))


def _last_taken(matrix: _Matrix, num_taken: int) -> tuple[Tensor, Tensor]:
    """The key of the last entry that is taken, int32 [1], and how many of its equals are, int64 [1]."""
    num_rows, num_columns = matrix.pre_nm.shape
    device, is_wide = matrix.pre_nm.device, matrix.bits == 32
    wanted = torch.full((1,), num_taken, dtype=torch.int64, device=device)
    floor = torch.full((1,), -(2 ** (matrix.bits - 1)), dtype=torch.int32, device=device)
    if num_taken <= num_rows * min(matrix.groups, num_columns) and matrix.groups < num_columns:
        bins = _empty_bins(device)
        _count_maxima[(num_rows,)](*matrix.arguments, bins, _COPIES, **matrix.constants)
        floor = _key_of(_bin_of(bins, wanted)[0], matrix.bits)
    bins = _empty_bins(device)
    _count_keys[(num_rows,)](*matrix.arguments, floor, bins, _COPIES, LOWER=False, **matrix.constants)
    place, num_above = _bin_of(bins, wanted)
    bound = _key_of(place, matrix.bits)
    if is_wide:
        wanted = wanted - num_above
        bins = _empty_bins(device)
        _count_keys[(num_rows,)](*matrix.arguments, bound, bins, _COPIES, LOWER=True, **matrix.constants)
        place, num_above = _bin_of(bins, wanted)
        bound = bound | place.int()
    return bound, wanted - num_above


def _empty_bins(device: torch.device) -> Tensor:
    return torch.zeros(_COPIES, _BINS, dtype=torch.int32, device=device)


def _bin_of(bins: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """The bin of the last of the wanted entries, counted from the largest, and how many lie above it; both [1]."""
    at_least_B = bins.sum(0).flip(0).cumsum(0).flip(0)
    place = (at_least_B >= wanted).sum(0, keepdim=True) - 1
    return place, at_least_B.gather(0, place) - bins.sum(0).gather(0, place)


def _key_of(place: Tensor, bits: int) -> Tensor:
    """The least key in a bin."""
    key = place - _BINS // 2
    return (key * 2**16 if bits == 32 else key).int()


@triton.jit
def _compared(numbers, weight, BITS: tl.constexpr, WEIGHTED: tl.constexpr):
    """The keys of numbers, times their row's weight if wanted."""
    if WEIGHTED:
        return to_key(numbers.to(tl.float32) * weight, BITS)
    else:
        return to_key(numbers, BITS)


@triton.jit
def _count_maxima(
    pre,
    weights,
    stride,
    num_columns,
    bins,
    num_copies,
    BITS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    groups = tl.arange(0, GROUPS)
    largest = tl.full([GROUPS], least_key(BITS), dtype=tl.int32)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + row * stride + first + groups, mask=inside, other=0.0)
        key = _compared(numbers, weight, BITS, WEIGHTED)
        largest = tl.maximum(largest, tl.where(inside, key, least_key(BITS)))
    place = (row % num_copies) * 65536 + ((largest >> (BITS - 16)) + 32768)
    tl.atomic_add(bins + place, 1, mask=groups < num_columns, sem="relaxed")


@triton.jit
def _count_keys(
    pre,
    weights,
    stride,
    num_columns,
    floor,
    bins,
    num_copies,
    LOWER: tl.constexpr,
    BITS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """Keys from a floor up by their upper 16 bits; or those whose upper 16 bits are the floor's, by the lower ones."""
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    least = tl.load(floor)
    groups = tl.arange(0, GROUPS)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + row * stride + first + groups, mask=inside, other=0.0)
        key = _compared(numbers, weight, BITS, WEIGHTED)
        if LOWER:
            counted = inside & ((key >> 16) == (least >> 16))
            place = key & 0xFFFF
        else:
            counted = inside & (key >= least)
            place = (key >> (BITS - 16)) + 32768
        tl.atomic_add(bins + (row % num_copies) * 65536 + place, 1, mask=counted, sem="relaxed")


@triton.jit
def _count(
    pre,
    weights,
    stride,
    num_columns,
    bound,
    counts,
    above,
    equal,
    BITS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """How many entries of each group are above the bound, and, 16 bits higher, how many equal it."""
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    last = tl.load(bound)
    groups = tl.arange(0, GROUPS)
    number = tl.zeros([GROUPS], dtype=tl.int32)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + row * stride + first + groups, mask=inside, other=0.0)
        key = _compared(numbers, weight, BITS, WEIGHTED)
        number += (inside & (key > last)).to(tl.int32) + (inside & (key == last)).to(tl.int32) * 65536
    tl.store(counts + row * GROUPS + groups, number)
    tl.store(above + row, tl.sum(number & 0xFFFF, axis=0).to(tl.int64))
    tl.store(equal + row, tl.sum(number >> 16, axis=0).to(tl.int64))


@triton.jit
def _write(
    pre,
    weights,
    stride,
    num_columns,
    bound,
    counts,
    row_pointer,
    equal_taken,
    values,
    columns,
    BITS: tl.constexpr,
    WEIGHTED: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    last = tl.load(bound)
    groups = tl.arange(0, GROUPS)
    number = tl.load(counts + row * GROUPS + groups)
    num_equal = number >> 16
    equal_left = tl.load(equal_taken + row).to(tl.int32) - (tl.cumsum(num_equal, axis=0) - num_equal)
    equal_left = tl.minimum(tl.maximum(equal_left, 0), num_equal)  # of each group
    number = (number & 0xFFFF) + equal_left
    place = tl.cumsum(number, axis=0) - number
    pre += row * stride
    values += tl.load(row_pointer + row)
    columns += tl.load(row_pointer + row)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + first + groups, mask=inside, other=0.0)
        key = _compared(numbers, weight, BITS, WEIGHTED)
        is_equal = inside & (key == last) & (equal_left > 0)
        taken = (inside & (key > last)) | is_equal
        tl.store(values + place, numbers, mask=taken)
        tl.store(columns + place, (first + groups).to(tl.int64), mask=taken)
        place += taken.to(tl.int32)
        equal_left -= is_equal.to(tl.int32)
