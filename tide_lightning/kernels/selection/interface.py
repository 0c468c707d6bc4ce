"""What a selection is given and gives.

Shape suffixes: N tokens, K kept a token, Z kept in all.
"""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from tide_lightning.kernels.blocks import Block


class Selected(NamedTuple):
    """A sparse code as tensors; see `SparseCode`.

    Fields:
        values: [N, K], or [Z] with a row pointer.
        indices: int64, of the same shape.
        row_pointer: None, or int64 [N + 1].
    """

    values: Tensor
    indices: Tensor
    row_pointer: Tensor | None


class Selection(Protocol):
    """A selection under way. Blocks come by tokens first, then by latents, each once and in order.

    Fields:
        room: how many free columns it asks for before a block's pre-activations.
    """

    room: int

    def see(self, block: Block) -> None:
        """Take in a block; its memory is used again for the next."""

    def finish(self) -> Selected:
        """What was selected of all blocks."""


def by_token(values_Z: Tensor, places_Z: Tensor, num_tokens: int, num_latents: int) -> Selected:
    """The code of entries in order of their places."""
    starts = torch.arange(num_tokens + 1, device=places_Z.device) * num_latents
    return Selected(values_Z, places_Z % num_latents, torch.searchsorted(places_Z, starts))
