"""What is done with codes besides multiplying: added to a block of pre-activations, and looked up in each other.

A token holds each latent once, so nothing is written twice.

Shape suffixes: n tokens and m latents of a block, Z entries.
"""

import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.csr import Csr
from tide_lightning.kernels.triton_kernels import on_its_device

_ENTRIES = 64  # of a token at a time


@on_its_device
def add(pre_nm: Tensor, code: Csr, first_token: int, first_latent: int) -> None:
    """Add the entries that lie in this block, in place."""
    if pre_nm.numel():
        block = pre_nm, pre_nm.stride(0), pre_nm.shape[1], first_token, first_latent
        _add[(len(pre_nm),)](*block, code.values, code.columns, code.row_pointer, ENTRIES=_ENTRIES, num_warps=1)


@on_its_device
def look_up(code: Csr, columns_Z: Tensor, row_pointer: Tensor) -> Tensor:
    """What a code holds at the places of other entries, [Z]; 0 where it holds nothing.

    Args:
        code: in which each place stands once.
        columns_Z: of the other entries.
        row_pointer: of the other entries; as many rows.
    """
    found_Z = code.values.new_empty(columns_Z.numel())
    if found_Z.numel():
        held = code.values, code.columns, code.row_pointer
        _look_up[(code.num_rows,)](*held, columns_Z, row_pointer, found_Z, ENTRIES=_ENTRIES)
    return found_Z


@triton.jit
def _add(pre, stride, num_columns, first_token, first_latent, values, columns, row_pointer, ENTRIES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(row_pointer + first_token + row + 1)
    for first in range(tl.load(row_pointer + first_token + row), end, ENTRIES):
        entry = first + tl.arange(0, ENTRIES)
        column = tl.load(columns + entry, mask=entry < end, other=-1) - first_latent
        inside = (column >= 0) & (column < num_columns) & (entry < end)
        pointer = pre + row * stride + column
        value = tl.load(values + entry, mask=inside, other=0.0).to(tl.float32)
        total = tl.load(pointer, mask=inside, other=0.0).to(tl.float32) + value
        tl.store(pointer, total.to(pre.dtype.element_ty), mask=inside)


@triton.jit
def _look_up(values, columns, row_pointer, wanted, wanted_pointer, found, ENTRIES: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    start = tl.load(row_pointer + row)
    end = tl.load(row_pointer + row + 1)
    wanted_end = tl.load(wanted_pointer + row + 1)
    for wanted_first in range(tl.load(wanted_pointer + row), wanted_end, ENTRIES):
        place = wanted_first + tl.arange(0, ENTRIES)
        wanted_column = tl.load(wanted + place, mask=place < wanted_end, other=-1)
        total = tl.zeros([ENTRIES], dtype=tl.float32)
        for first in range(start, end, ENTRIES):
            entry = first + tl.arange(0, ENTRIES)
            column = tl.load(columns + entry, mask=entry < end, other=-2)
            value = tl.load(values + entry, mask=entry < end, other=0.0).to(tl.float32)
            is_same = wanted_column[:, None] == column[None, :]
            total += tl.sum(tl.where(is_same, value[None, :], 0.0), axis=1)  # one of them at most
        tl.store(found + place, total.to(found.dtype.element_ty), mask=place < wanted_end)
