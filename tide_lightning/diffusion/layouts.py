"""Where a site's tokens lie: on which grid of places, and in which part of what its module returns.

Blocks return their tokens in many ways: one tensor, a tuple of streams in either order, streams joined in one tensor,
channels before places. None of it is declared. A forward with a prompt of telling length shows it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tide_lightning.diffusion.grid import Grid


@dataclass(frozen=True)
class Layout:
    """The places of a site's tokens.

    Args:
        stream: `image` or `text`.
        grid: places along each axis: (rows, columns), with frames before them in a video; (length,) of a prompt.
    """

    stream: str
    grid: Grid

    @property
    def num_tokens(self) -> int:
        """Places in all."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Holding:
    """How a module's output holds one stream's tokens [N, T, d].

    Args:
        item: which one of a tuple; None where the output is a tensor.
        first: the first of the tensor's tokens that belongs to the stream.
        last: the one behind the last.
        channels_first: the tensor is [N, d, *grid].
    """

    item: int | None = None
    first: int | None = None
    last: int | None = None
    channels_first: bool = False

    def tensor(self, output: Any) -> Any:
        """The tensor that holds the tokens, perhaps among others."""
        return output if self.item is None else output[self.item]

    def tokens(self, tensor: Tensor) -> Tensor:
        """The stream's tokens of that tensor."""
        return tensor.flatten(2).mT if self.channels_first else tensor[:, self.first : self.last]

    def put(self, output: Any, tokens: Tensor) -> Any:
        """The output with other tokens in their place."""
        tensor = self.tensor(output)
        if self.channels_first:
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


def find_holding(
    output: Any, stream: str, image_grids: Sequence[Grid], num_text: int, text_first: bool
) -> tuple[Holding, Grid] | None:
    """Where in an output a stream's tokens are, and on which grid; None where they are not.

    Args:
        output: what a module returned for one sample.
        stream: the stream looked for.
        image_grids: grids that the image's tokens may lie on.
        num_text: tokens of the prompt, a number that no grid has.
        text_first: the order of streams that stand one after another in one tensor.
    """
    items: list[tuple[int | None, Any]]
    items = list(enumerate(output)) if isinstance(output, tuple | list) else [(None, output)]
    for item, value in items:
        if not isinstance(value, Tensor):
            continue
        if stream == "text":
            if value.ndim == 3 and value.shape[1] == num_text:
                return Holding(item), (num_text,)
        else:
            for grid in image_grids:
                if value.ndim == 3 and value.shape[1] == math.prod(grid):
                    return Holding(item), grid
                if value.ndim == 2 + len(grid) and tuple(value.shape[2:]) == grid:
                    return Holding(item, channels_first=True), grid
    for item, value in items:
        for grid in image_grids:
            num_image = math.prod(grid)
            # Some models put registers to the text, which make it longer: then only the image can be told.
            enough = num_image + num_text
            if isinstance(value, Tensor) and value.ndim == 3 and value.shape[1] >= enough:
                if stream == "text" and value.shape[1] > enough:
                    continue
                is_first = (stream == "text") == text_first
                # Counted from the image's side, for prompts may have another length.
                edge = -num_image if text_first else num_image
                holding = Holding(item, last=edge) if is_first else Holding(item, first=edge)
                return holding, grid if stream == "image" else (num_text,)
    return None
