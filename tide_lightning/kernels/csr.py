"""The one sparse layout that backends see.

Shape suffixes here and in the backends: N tokens, M latents (d_sae), D channels, Z stored entries (nnz).
"""

import torch
from torch import Tensor

_RADIX_SORT_FROM = 32_768  # keys; fewer are sorted by merging on a CPU, in four times the time


class Csr:
    """A sparse [num_rows, num_columns] matrix by rows; columns may be unsorted, and repeated ones add up.

    Args:
        values: [Z].
        columns: int64 [Z].
        row_pointer: int64 [num_rows + 1]: row n holds entries row_pointer[n] to row_pointer[n + 1].
        num_columns: the matrix's width.
    """

    def __init__(self, values: Tensor, columns: Tensor, row_pointer: Tensor, num_columns: int) -> None:
        self.values, self.columns = values.contiguous(), columns.contiguous()  # kernels count on it
        self.row_pointer = row_pointer
        self.num_rows, self.num_columns = row_pointer.numel() - 1, num_columns
        self._transposed: Csr | None = None
        self._written_out: Tensor | None = None

    def rows(self) -> Tensor:
        """The row of every entry, [Z]."""
        return expand_row_pointer(self.row_pointer, self.columns.numel())

    def transposed(self) -> "Csr":
        """The transposed matrix; a row's entries keep the order of the old rows: sums stay repeatable."""
        if self._transposed is None:
            sorted_columns_Z, order_Z = _sort(self.columns, self.num_columns)
            edges = torch.arange(self.num_columns + 1, device=self.columns.device, dtype=torch.int32)
            pointer = torch.searchsorted(sorted_columns_Z, edges)
            self._transposed = Csr(self.values[order_Z], self.rows()[order_Z], pointer, self.num_rows)
        return self._transposed

    def places(self) -> Tensor:
        """The place of every entry in the matrix written out flat, [Z]."""
        return self.rows() * self.num_columns + self.columns

    def written_out(self) -> Tensor:
        """The matrix with its zeros."""
        if self._written_out is None:
            flat = self.values.new_zeros(self.num_rows * self.num_columns)
            if flat.device.type == "cpu":
                flat.scatter_add_(0, self.places(), self.values)  # in order; on CUDA it would add by atomics
            else:
                flat.index_put_((self.places(),), self.values, accumulate=True)
            self._written_out = flat.view(self.num_rows, self.num_columns)
        return self._written_out


def _sort(columns_Z: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    """Columns in order, int32, and where they were: a stable sort, digit by digit, of keys as short as can be."""
    return (_sort_on_cpu if columns_Z.device.type == "cpu" else _sort_on_gpu)(columns_Z, num_columns)


def _sort_on_cpu(columns_Z: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    num_entries, keys = columns_Z.numel(), columns_Z.int()
    if 4096 < num_entries < _RADIX_SORT_FROM:
        keys = torch.nn.functional.pad(keys, (0, _RADIX_SORT_FROM - num_entries), value=num_columns)  # these go last
    sorted_Z, order_Z = keys.sort(stable=True)
    return sorted_Z[:num_entries], order_Z[:num_entries]


def _sort_on_gpu(columns_Z: Tensor, num_columns: int) -> tuple[Tensor, Tensor]:
    keys = columns_Z.to(torch.int16 if num_columns <= torch.iinfo(torch.int16).max else torch.int32)
    sorted_Z, order_Z = keys.sort(stable=True)
    return sorted_Z.int(), order_Z


def expand_row_pointer(row_pointer: Tensor, num_entries: int) -> Tensor:
    """The row of every entry, [num_entries]; knowing their number saves a wait for the GPU."""
    rows = torch.arange(row_pointer.numel() - 1, device=row_pointer.device)
    return rows.repeat_interleave(row_pointer.diff(), output_size=num_entries)


def even_row_pointer(indices_NK: Tensor) -> Tensor:
    """The row pointer of a code with equally many entries in each row, [N + 1]."""
    num_rows, length = indices_NK.shape
    return torch.arange(num_rows + 1, device=indices_NK.device) * length


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type in which sums of products are kept: at least float32."""
    return torch.promote_types(dtype, torch.float32)
