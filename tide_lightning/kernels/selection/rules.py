"""Which pre-activations a code keeps: the rules that `encode` takes.

Pre-activations come as blocks, some tokens by some latents, so that all of them never stand in memory at once. What
is not positive is kept at value 0, if at all: selecting and then clamping is the same as TopK(ReLU(.)).

Shape suffixes: N tokens and M latents of all blocks, n and m of one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block
from tide_lightning.kernels.selection import by_pytorch, by_triton
from tide_lightning.kernels.selection.interface import Selected, Selection
from tide_lightning.kernels.selection.tokenwise import TokenwiseSelection
from tide_lightning.kernels.topk import check_k, topk


class Rule(Protocol):
    """A way to select."""

    def start(self, num_tokens: int, num_latents: int, in_triton: bool = False) -> Selection:
        """Begin to select from so many tokens and latents, by PyTorch or by kernels for a GPU."""


@dataclass(frozen=True)
class TopK:
    """The k largest of each token.

    Args:
        k: how many of each token; the code's width.
    """

    k: int

    def start(self, num_tokens: int, num_latents: int, in_triton: bool = False) -> Selection:
        """Begin to select."""
        check_k(self.k, num_latents)
        return TokenwiseSelection(self.k, by_triton.topk if in_triton else topk)


@dataclass(frozen=True)
class BatchTopK:
    """The N k largest of a whole batch of N tokens: k a token on average, more where more is to say.

    Args:
        k: how many a token on average.
        weight_N: positive, by which a token's pre-activations count where tokens are compared; values are as without.
    """

    k: int
    weight_N: Tensor | None = None

    def start(self, num_tokens: int, num_latents: int, in_triton: bool = False) -> Selection:
        """Begin to select."""
        check_k(self.k, num_latents)
        cls = by_triton.BatchwiseSelection if in_triton else by_pytorch.BatchwiseSelection
        return cls(num_tokens, num_latents, self.k * num_tokens, self.weight_N)


@dataclass(frozen=True)
class Threshold:
    """Whatever exceeds a threshold and 0: each token's code is independent of the batch.

    Args:
        threshold: one for all latents, or one for each [M].
        weight_N: positive, by which a token's pre-activations count against it; values are as without.
    """

    threshold: float | Tensor
    weight_N: Tensor | None = None

    def start(self, num_tokens: int, num_latents: int, in_triton: bool = False) -> Selection:
        """Begin to select."""
        cls = by_triton.ThresholdSelection if in_triton else by_pytorch.ThresholdSelection
        return cls(num_tokens, num_latents, self.threshold, self.weight_N)


@dataclass(frozen=True)
class Within:
    """What another rule selects when each token has a range of latents of its own.

    Args:
        rule: the other rule; where it selects a latent outside the range, at value 0.
        low_N: int64, the first latent of each token's range.
        high_N: int64, the first one behind it.
    """

    rule: Rule
    low_N: Tensor
    high_N: Tensor

    def start(self, num_tokens: int, num_latents: int, in_triton: bool = False) -> Selection:
        """Begin to select."""
        return _WithinSelection(self.rule.start(num_tokens, num_latents, in_triton), self.low_N, self.high_N)


class _WithinSelection:
    """Hides what lies outside each token's range from another selection, and from whoever sees the block after it."""

    def __init__(self, selection: Selection, low_N: Tensor, high_N: Tensor) -> None:
        self.selection, self.room, self.low_N, self.high_N = selection, selection.room, low_N, high_N

    def see(self, block: Block) -> None:
        tokens = slice(block.first_token, block.first_token + len(block.pre_nm))
        latents_m = torch.arange(block.pre_nm.shape[1], device=block.pre_nm.device) + block.first_latent
        below_nm = latents_m < self.low_N[tokens].unsqueeze(1)
        block.pre_nm.masked_fill_(below_nm | (latents_m >= self.high_N[tokens].unsqueeze(1)), -torch.inf)
        self.selection.see(block)

    def finish(self) -> Selected:
        return self.selection.finish()
