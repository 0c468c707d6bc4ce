"""Sparse codes: what `encode` returns, and what decoding, metrics and steering take.

Shape suffixes: N tokens, M latents, K active latents a token, Z stored entries (nnz).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tide_lightning.kernels.csr import expand_row_pointer


@dataclass(frozen=True, eq=False)
class SparseCode:
    """A batch of tokens, each as a few latents and their values.

    A latent fires where its value is above 0; one that was merely selected, at value 0, does not.

    Args:
        values: [N, K], or [Z] where tokens have different numbers of latents (BatchTopK, JumpReLU).
        indices: int64, the latents, of the same shape as values, in no particular order.
        num_latents: the size of the dictionary, M.
        row_pointer: None, or int64 [N + 1] with a flat code: where in it each token starts, and its length.
    """

    values: Tensor
    indices: Tensor
    num_latents: int
    row_pointer: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.values.shape == self.indices.shape, (self.values.shape, self.indices.shape)
        assert self.values.ndim == (2 if self.row_pointer is None else 1), self.values.shape

    @classmethod
    def from_dense(cls, dense_NM: Tensor) -> "SparseCode":
        """The variable-length code of a matrix's non-zero entries; the gradient reaches those entries."""
        rows_Z, columns_Z = dense_NM.nonzero(as_tuple=True)
        lengths_N = (dense_NM != 0).sum(dim=1)
        return cls(dense_NM[rows_Z, columns_Z], columns_Z, dense_NM.shape[1], _row_pointer(lengths_N))

    @property
    def num_tokens(self) -> int:
        """The number of tokens, N."""
        return len(self.values) if self.row_pointer is None else self.row_pointer.numel() - 1

    def tokens(self) -> Tensor:
        """The token of every entry in `values.flatten()`, [Z]."""
        if self.row_pointer is not None:
            return expand_row_pointer(self.row_pointer, self.values.numel())
        num_tokens, k = self.values.shape
        return torch.arange(num_tokens, device=self.values.device).repeat_interleave(k)

    def to_coo(self) -> Tensor:
        """The code as a sparse COO tensor, [N, M]; not coalesced, and differentiable in the values."""
        return torch.sparse_coo_tensor(
            torch.stack([self.tokens(), self.indices.flatten()]),
            self.values.flatten(),
            (self.num_tokens, self.num_latents),
            check_invariants=False,
        )

    def to_dense(self) -> Tensor:
        """The code written out, [N, M], differentiable in the values; repeated indices add up."""
        dense_NM = self.values.new_zeros(self.num_tokens, self.num_latents)
        return dense_NM.index_put((self.tokens(), self.indices.flatten()), self.values.flatten(), accumulate=True)

    def l0(self) -> Tensor:
        """The number of latents that fire for each token, int64 [N]."""
        if self.row_pointer is None:
            return (self.values > 0).sum(dim=1)
        fires_Z = (self.values > 0).long()
        return fires_Z.new_zeros(self.num_tokens).index_add_(0, self.tokens(), fires_Z)

    def fired(self) -> Tensor:
        """The number of tokens for which each latent fires, int64 [M]."""
        fires_Z = (self.values > 0).flatten().long()
        return fires_Z.new_zeros(self.num_latents).index_add_(0, self.indices.flatten(), fires_Z)

    def select(self, rows: Tensor | slice) -> "SparseCode":
        """The code of some tokens only.

        Args:
            rows: a slice, an int64 tensor (in any order, repeats allowed) or a boolean mask over tokens.
        """
        if self.row_pointer is None:
            return replace(self, values=self.values[rows], indices=self.indices[rows])
        starts, lengths = self.row_pointer[:-1][rows], self.row_pointer.diff()[rows]
        pointer = _row_pointer(lengths)
        offsets_Z = (starts - pointer[:-1]).repeat_interleave(lengths)
        entries_Z = offsets_Z + torch.arange(len(offsets_Z), device=offsets_Z.device)
        return replace(self, values=self.values[entries_Z], indices=self.indices[entries_Z], row_pointer=pointer)

    def to(self, device: torch.device | str) -> "SparseCode":
        """The code on another device."""
        pointer = None if self.row_pointer is None else self.row_pointer.to(device)
        return replace(self, values=self.values.to(device), indices=self.indices.to(device), row_pointer=pointer)

    def detach(self) -> "SparseCode":
        """The code cut off from the graph."""
        return self.with_values(self.values.detach())

    def with_values(self, values: Tensor) -> "SparseCode":
        """The same latents with other values."""
        return replace(self, values=values)


def _row_pointer(lengths: Tensor) -> Tensor:
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(dim=0)])
