"""What exceeds a threshold, by two reads: one counts, one writes; between them the host asks how many there are.

Shape suffixes: n rows and m columns, G groups (column modulo their number), Z entries taken.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.selection.interface import Selected
from tide_lightning.kernels.triton_kernels import on_its_device
from tide_lightning.kernels.triton_kernels.keys import weight_of


@on_its_device
def above(pre_nm: Tensor, threshold: Tensor, weight_n: Tensor | None) -> Selected:
    """The entries that exceed the threshold; their order in a row is no particular one.

    Args:
        pre_nm: the entries; columns lie side by side, rows need not.
        threshold: one, or one for each column.
        weight_n: positive, by which a row's entries count against it; values are as without.
    """
    num_rows, num_columns = pre_nm.shape
    row_pointer = torch.zeros(num_rows + 1, dtype=torch.int64, device=pre_nm.device)
    if pre_nm.numel() == 0:
        return Selected(pre_nm.new_empty(0), row_pointer.new_empty(0), row_pointer)
    num_groups = min(1024, max(16, triton.next_power_of_2(num_columns)))
    threshold = threshold.float()
    weight = threshold if weight_n is None else weight_n.float()  # any tensor where it is not read
    arguments = pre_nm, weight, threshold, pre_nm.stride(0), num_columns
    constants = {
        "WEIGHTED": weight_n is not None,
        "BY_COLUMN": threshold.ndim == 1,
        "GROUPS": num_groups,
        "num_warps": max(1, num_groups // 256),
    }
    counts_nG = torch.empty(num_rows, num_groups, dtype=torch.int32, device=pre_nm.device)
    _count[(num_rows,)](*arguments, counts_nG, **constants)
    torch.cumsum(counts_nG.sum(1), 0, out=row_pointer[1:])
    num_taken = int(row_pointer[-1])
    values_Z, columns_Z = pre_nm.new_empty(num_taken), row_pointer.new_empty(num_taken)
    if num_taken:
        _write[(num_rows,)](*arguments, counts_nG, row_pointer, values_Z, columns_Z, **constants)
    return Selected(values_Z, columns_Z, row_pointer)


@triton.jit
def _exceed(numbers, inside, columns, weight, threshold, WEIGHTED: tl.constexpr, BY_COLUMN: tl.constexpr):
    """Which of a row's numbers exceed the threshold over the row's weight."""
    if BY_COLUMN:
        floor = tl.load(threshold + columns, mask=inside, other=0.0)
    else:
        floor = tl.load(threshold)
    if WEIGHTED:
        floor = tl.div_rn(floor, floor * 0.0 + weight)
    return inside & (numbers.to(tl.float32) > floor)


@triton.jit
def _count(
    pre,
    weights,
    threshold,
    stride,
    num_columns,
    counts,
    WEIGHTED: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    groups = tl.arange(0, GROUPS)
    number = tl.zeros([GROUPS], dtype=tl.int32)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + row * stride + first + groups, mask=inside, other=0.0)
        number += _exceed(numbers, inside, first + groups, weight, threshold, WEIGHTED, BY_COLUMN).to(tl.int32)
    tl.store(counts + row * GROUPS + groups, number)


@triton.jit
def _write(
    pre,
    weights,
    threshold,
    stride,
    num_columns,
    counts,
    row_pointer,
    values,
    columns,
    WEIGHTED: tl.constexpr,
    BY_COLUMN: tl.constexpr,
    GROUPS: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    weight = weight_of(weights, row, WEIGHTED)
    groups = tl.arange(0, GROUPS)
    number = tl.load(counts + row * GROUPS + groups)
    place = tl.cumsum(number, axis=0) - number
    pre += row * stride
    values += tl.load(row_pointer + row)
    columns += tl.load(row_pointer + row)
    for first in range(0, num_columns, GROUPS):
        inside = first + groups < num_columns
        numbers = tl.load(pre + first + groups, mask=inside, other=0.0)
        taken = _exceed(numbers, inside, first + groups, weight, threshold, WEIGHTED, BY_COLUMN)
        tl.store(values + place, numbers, mask=taken)
        tl.store(columns + place, (first + groups).to(tl.int64), mask=taken)
        place += taken.to(tl.int32)
