"""Each token's k largest, from blocks.

Shape suffixes: n tokens and m latents of a block, N tokens in all, K kept a token.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block
from tide_lightning.kernels.selection.interface import Selected


class TokenwiseSelection:
    """Carries each token's k largest so far from block to block.

    Args:
        k: how many.
        topk: the k largest of each row of a matrix, and their columns.
    """

    def __init__(self, k: int, topk: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
        self.k, self.topk, self.room = k, topk, k
        self.parts: list[tuple[Tensor, Tensor]] = []
        self.current_token = -1

    def see(self, block: Block) -> None:
        """Take in a block."""
        pre_nm, first_token, first_latent, joined = block
        if first_token != self.current_token:
            values_nK, indices_nK = self.topk(pre_nm, min(self.k, pre_nm.shape[1]))
            self.parts.append((values_nK, indices_nK + first_latent if first_latent else indices_nK))
            self.current_token = first_token
            return
        best_nK, at_nK = self.parts[-1]
        num_best = best_nK.shape[1]
        # The best so far go first, into the room there: a partial sort then moves little of what follows.
        joined = joined[:, self.room - num_best :]
        joined[:, :num_best] = best_nK
        values_nK, place_nK = self.topk(joined, min(self.k, joined.shape[1]))
        before = at_nK.gather(1, place_nK.clamp(max=num_best - 1))
        self.parts[-1] = values_nK, torch.where(place_nK < num_best, before, place_nK + (first_latent - num_best))

    def finish(self) -> Selected:
        """What was selected."""
        values, indices = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self.parts, strict=True))
        return Selected(values.relu_(), indices, None)
