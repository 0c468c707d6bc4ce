"""Blocks that fold places into the batch: a video's frames, an image's windows.

One sample's forward shows that there are more rows than samples, but no shape tells in which order: [4, 64, d] of one
16x16 image are four windows or sixty-four interleaved squares, and of several samples the first axis may begin with
either. So the order is declared, and what can be checked of it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import einops
import torch
from torch import Tensor

from tide_lightning.errors import UserError


@dataclass(frozen=True)
class Folding:
    """How to lay out a module's output as samples, their places, and channels.

    Args:
        pattern: einops' pattern to `b (...) d`: samples b, places in the order of the grid (frames, rows, columns),
            channels d. Frames in the batch are "(b f) n d -> b (f n) d"; windows "(b h w) (i j) d -> b (h i w j) d".
        sizes: of the axes that shapes do not tell, for both directions: {"f": 16}, {"h": 2, "w": 2, "i": 8, "j": 8}.
    """

    pattern: str
    sizes: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what does not end in samples, places and channels."""
        left, arrow, right = self.pattern.partition("->")
        names = right.replace("(", " ").replace(")", " ").split()
        if not arrow or not left.strip() or names[:1] != ["b"] or names[-1:] != ["d"] or len(names) < 3:
            raise UserError(f"folded: {self.pattern!r} is not of the form '(b f) n d -> b (f n) d'")

    def unfold(self, tensor: Tensor) -> Tensor:
        """Tokens [N, T, d] of an output."""
        return einops.rearrange(tensor, self.pattern, **self.sizes)

    def fold(self, tokens: Tensor) -> Tensor:
        """The output whose tokens these are."""
        left, _, right = self.pattern.partition("->")
        return einops.rearrange(tokens, f"{right.strip()} -> {left.strip()}", **self.sizes)

    def fits(self, tensor: Tensor) -> bool:
        """Whether a tensor unfolds, and folds back to itself."""
        try:
            return self.fold(self.unfold(tensor)).shape == tensor.shape
        except einops.EinopsError:
            return False


def keeps_samples_apart(moved_NT: Tensor) -> bool:
    """Whether no sample's tokens follow another's input, by how far each moved when the second's was changed [2, T]."""
    first, second = moved_NT.double().norm(dim=1).tolist()
    return bool(first < 1e-3 * second)


def keeps_places_apart(moved_T: Tensor, changed_T: Tensor) -> bool:
    """Whether tokens move most where the input was changed; attention may hide it, a wrong order always does.

    Args:
        moved_T: how far each token of one sample moved [T].
        changed_T: at which half of the places its input was changed [T].
    """
    most = moved_T.topk(int(changed_T.sum())).indices
    return float(changed_T[most].float().mean()) > 0.8


def half_of(num_places: int) -> Tensor:
    """Half of the places, at random but always the same [T], bool."""
    order = torch.randperm(num_places, generator=torch.Generator().manual_seed(0))
    return order < num_places // 2
