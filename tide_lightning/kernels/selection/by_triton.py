"""Selection by kernels for a GPU, in passes over each block: nothing of a block's size is made besides it.

Nothing waits for the device but a threshold, which has to know how many entries there are.

Shape suffixes: N tokens and M latents of all blocks, n and m of one block, Z kept in all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block, of_block
from tide_lightning.kernels.csr import expand_row_pointer
from tide_lightning.kernels.selection.interface import Selected, by_token
from tide_lightning.kernels.topk import topk as topk_by_pytorch


def topk(pre_nm: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest entries of every row and their columns, both [n, k]."""
    from tide_lightning.kernels.triton_kernels import topk as kernels

    values_nk, indices_nk = (topk_by_pytorch if k > kernels.MOST else kernels.topk)(pre_nm, k)
    return values_nk, indices_nk


class _InBlocks:
    """What was selected so far, by places in the whole [N, M]; of a single block that is all, as it is."""

    room = 0

    def __init__(self, num_tokens: int, num_latents: int, weight_N: Tensor | None) -> None:
        self.num_tokens, self.num_latents, self.weight_N = num_tokens, num_latents, weight_N
        self.whole: Selected | None = None
        self.values: list[Tensor] = []
        self.places: list[Tensor] = []

    def _take(self, selected: Selected, block: Block) -> None:
        """What was selected from a block, with rows and columns of its own."""
        assert selected.row_pointer is not None
        if block.pre_nm.shape == (self.num_tokens, self.num_latents):
            self.whole = selected
            return
        tokens = expand_row_pointer(selected.row_pointer, selected.values.numel()) + block.first_token
        self.values.append(selected.values)
        self.places.append(tokens * self.num_latents + selected.indices + block.first_latent)

    def finish(self) -> Selected:
        """What was selected."""
        if self.whole is not None:
            return self.whole._replace(values=self.whole.values.relu())
        places_Z, order_Z = torch.cat(self.places).sort()
        return by_token(torch.cat(self.values)[order_Z].relu(), places_Z, self.num_tokens, self.num_latents)


class BatchwiseSelection(_InBlocks):
    """The batch's Z largest: of each block as many, and of those the largest."""

    def __init__(self, num_tokens: int, num_latents: int, num_kept: int, weight_N: Tensor | None) -> None:
        super().__init__(num_tokens, num_latents, weight_N)
        self.num_kept = num_kept

    def see(self, block: Block) -> None:
        """Take in a block."""
        from tide_lightning.kernels.triton_kernels import batch

        self._take(batch.largest(block.pre_nm, of_block(self.weight_N, block), self.num_kept), block)
        if len(self.places) < 2:
            return
        values_Z, places_Z = torch.cat(self.values), torch.cat(self.places)
        if values_Z.numel() > self.num_kept:
            compared_Z = values_Z if self.weight_N is None else values_Z * self.weight_N[places_Z // self.num_latents]
            best_Z = compared_Z.topk(self.num_kept, sorted=False).indices
            values_Z, places_Z = values_Z[best_Z], places_Z[best_Z]
        self.values, self.places = [values_Z], [places_Z]


class ThresholdSelection(_InBlocks):
    """What exceeds the threshold."""

    def __init__(self, num_tokens: int, num_latents: int, threshold: float | Tensor, weight_N: Tensor | None) -> None:
        super().__init__(num_tokens, num_latents, weight_N)
        self.threshold = threshold

    def see(self, block: Block) -> None:
        """Take in a block."""
        from tide_lightning.kernels.triton_kernels import threshold as kernels

        pre_nm, threshold = block.pre_nm, self.threshold
        if not isinstance(threshold, Tensor):
            threshold = torch.full((), threshold, device=pre_nm.device)
        if threshold.ndim == 1:
            threshold = threshold[block.first_latent : block.first_latent + pre_nm.shape[1]]
        self._take(kernels.above(pre_nm, threshold.clamp(min=0), of_block(self.weight_N, block)), block)
