"""The one sparse layout that decode backends see.

Shape suffixes here and in the backends: N tokens, M latents (d_sae), D channels, Z stored entries (nnz).
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Csr(NamedTuple):
    """A sparse [num_rows, num_columns] matrix by rows; columns may be unsorted, and repeated ones add up."""

    values: Tensor  # [Z]
    columns: Tensor  # int64 [Z]
    row_pointer: Tensor  # int64 [num_rows + 1]: row n holds entries row_pointer[n] to row_pointer[n + 1]
    num_columns: int

    @property
    def num_rows(self) -> int:
        """The matrix's height."""
        return self.row_pointer.numel() - 1

    def rows(self) -> Tensor:
        """The row of every entry, [Z]."""
        return expand_row_pointer(self.row_pointer, self.columns.numel())

    def transpose(self) -> "Csr":
        """The transposed matrix; a row's entries keep the order of the old rows: sums stay repeatable."""
        sorted_columns_Z, order_Z = self.columns.sort(stable=True)
        edges = torch.arange(self.num_columns + 1, device=self.columns.device)
        pointer = torch.searchsorted(sorted_columns_Z, edges)
        return Csr(self.values[order_Z], self.rows()[order_Z], pointer, self.num_rows)


def expand_row_pointer(row_pointer: Tensor, num_entries: int) -> Tensor:
    """The row of every entry, [num_entries]; knowing their number saves a wait for the GPU."""
    rows = torch.arange(row_pointer.numel() - 1, device=row_pointer.device)
    return rows.repeat_interleave(row_pointer.diff(), output_size=num_entries)


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of products are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)
