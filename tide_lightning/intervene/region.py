"""A part of the image, and the tokens that lie in it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.diffusion.grid import positions
from tide_lightning.errors import UserError


@dataclass(frozen=True)
class Region:
    """A box, in shares of the image's width and height from its upper left corner."""

    left: float
    top: float
    right: float
    bottom: float

    def __post_init__(self) -> None:
        if not (0 <= self.left < self.right <= 1 and 0 <= self.top < self.bottom <= 1):
            raise UserError(
                f"region {self}: give left, top, right, bottom as shares of the image, 0 <= left < right <= 1 and"
                " 0 <= top < bottom <= 1, such as 0,0,0.5,1 for its left half"
            )

    def __str__(self) -> str:
        return ",".join(f"{edge:g}" for edge in (self.left, self.top, self.right, self.bottom))

    @staticmethod
    def parse(text: str) -> Region:
        """Read "left,top,right,bottom"."""
        try:
            left, top, right, bottom = map(float, text.split(","))
        except ValueError:
            raise UserError(f"region {text!r}: give four numbers left,top,right,bottom, such as 0,0,0.5,1") from None
        return Region(left, top, right, bottom)

    def tokens(self, grid: tuple[int, ...]) -> Tensor:
        """Which places of a grid have their centre inside [T]; a video's frames all alike."""
        rows, cols = grid[-2:]
        centre = (positions(grid)[:, -2:] + 0.5) / torch.tensor([rows, cols])
        low, high = torch.tensor([self.top, self.left]), torch.tensor([self.bottom, self.right])
        inside = ((centre >= low) & (centre < high)).all(1)
        if not inside.any():
            raise UserError(f"region {self} holds no patch: the image has {rows} x {cols}, so make it larger")
        return inside

    def pixels(self, height: int, width: int) -> Tensor:
        """Which pixels have their centre inside [H, W]."""
        return self.tokens((height, width)).reshape(height, width)
