"""Pictures of an atlas, many to a file: thumbnails, and heat-maps as a translucent layer to lay over them.

A browser may show a file beside a page but not read it; so heat-maps are pictures as well, whose colours are made here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tide_lightning.drawing import encoded
from tide_lightning.explore.pictures import to_picture

THUMBNAILS_A_SHEET = 64
COLUMNS = 8
_LEVELS = 32
_RAMP = ((255, 214, 10), (255, 120, 0), (230, 0, 60))  # from weak to strong
_LEAST_ALPHA, _MOST_ALPHA = 70, 215


def thumbnails(images: Tensor, side: int) -> list[Image.Image]:
    """Images [N, 3, H, W] in [-1, 1] as squares of at most `side` pixels; of a video the frame in the middle."""
    if images.ndim == 5:
        images = images[:, :, images.shape[2] // 2]
    pictures = [to_picture(one) for one in images]
    side = min(side, *pictures[0].size) if pictures else side
    return [one if one.size == (side, side) else one.resize((side, side), Image.Resampling.LANCZOS) for one in pictures]


def thumbnail_sheets(pictures: Sequence[Image.Image]) -> list[bytes]:
    """WebP files of 8 x 8 squares each, in order."""
    side = pictures[0].size[0]
    sheets = []
    for start in range(0, len(pictures), THUMBNAILS_A_SHEET):
        some = pictures[start : start + THUMBNAILS_A_SHEET]
        whole = Image.new("RGB", (COLUMNS * side, -(-THUMBNAILS_A_SHEET // COLUMNS) * side))
        for place, picture in enumerate(some):
            whole.paste(picture, (place % COLUMNS * side, place // COLUMNS * side))
        sheets.append(encoded(whole, "WEBP", quality=90))
    return sheets


def heat_sheet(maps: Tensor, shape: tuple[int, int]) -> bytes:
    """A PNG of heat-maps [latents, images, bins * places]: a row for each image of each latent, a column for each bin.

    Each latent's strongest value is the strongest colour; where it does not fire, the sheet is transparent.
    """
    num_latents, num_images, _ = maps.shape
    tallest = maps.flatten(1).amax(1).float().clamp(min=1e-20)[:, None, None]
    levels = (maps.float() / tallest * _LEVELS).ceil().clamp(max=_LEVELS).to(torch.uint8)
    rows = levels.view(num_latents * num_images, -1, *shape).permute(0, 2, 1, 3)  # image, row, bin, column
    grid = np.ascontiguousarray(rows.reshape(num_latents * num_images * shape[0], -1).cpu().numpy())
    picture = Image.fromarray(grid).convert("P")
    colours, alphas = _ramp()
    picture.putpalette([channel for colour in colours for channel in colour])
    return encoded(picture, "PNG", transparency=bytes(alphas), optimize=True)


def _ramp() -> tuple[list[tuple[int, int, int]], list[int]]:
    colours, alphas = [(0, 0, 0)], [0]
    for level in range(1, _LEVELS + 1):
        share = (level - 1) / (_LEVELS - 1)
        place = min(int(share * 2), 1)
        rest = share * 2 - place
        low, high = _RAMP[place], _RAMP[place + 1]
        red, green, blue = (round(a + (b - a) * rest) for a, b in zip(low, high, strict=True))
        colours.append((red, green, blue))
        alphas.append(round(_LEAST_ALPHA + (_MOST_ALPHA - _LEAST_ALPHA) * share))
    return colours, alphas
