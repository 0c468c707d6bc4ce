"""How a module's output holds the tokens of one stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.folding import Folding


@dataclass(frozen=True)
class Holding:
    """How a module's output holds one stream's tokens [N, T, d].

    Args:
        item: which one of a tuple; None where the output is a tensor.
        first: the first of the tensor's tokens that belongs to the stream.
        last: the one behind the last.
        channels_first: the tensor is [N, d, *grid].
        folding: how places are folded into the batch, if they are.
    """

    item: int | None = None
    first: int | None = None
    last: int | None = None
    channels_first: bool = False
    folding: Folding | None = None

    def tensor(self, output: Any) -> Any:
        """The tensor that holds the tokens, perhaps among others."""
        return output if self.item is None else output[self.item]

    def tokens(self, tensor: Tensor) -> Tensor:
        """The stream's tokens of that tensor."""
        if self.folding is not None:
            return self.folding.unfold(tensor)
        return tensor.flatten(2).mT if self.channels_first else tensor[:, self.first : self.last]

    def put(self, output: Any, tokens: Tensor) -> Any:
        """The output with other tokens in their place."""
        tensor = self.tensor(output)
        if self.folding is not None:
            new = self.folding.fold(tokens)
        elif self.channels_first:
            new = tokens.mT.reshape(tensor.shape)
        elif self.first is None and self.last is None:
            new = tokens
        else:
            before = tensor[:, : self.first] if self.first is not None else tensor[:, :0]
            behind = tensor[:, self.last :] if self.last is not None else tensor[:, :0]
            new = torch.cat([before, tokens, behind], dim=1)
        if self.item is None:
            return new
        return tuple(new if place == self.item else value for place, value in enumerate(output))
