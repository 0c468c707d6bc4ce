"""The grounds on which SAEs are set side by side, with the data that their packaged configs name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from tide_lightning.grounds import photos, toybox
from tide_lightning.grounds.ground import Ground, Split


class World(NamedTuple):
    """A ground and what is needed to read activations there.

    Fields:
        pretrained: the denoiser, as `data.pretrained` has it.
        family: its class path, as `data.family` has it.
        images: a split's first so many; 0 for all, where the ground has a number of them.
        ground: made anew.
        steered: the factors that are steered.
        tuned: the block on which settings were, and are, found.
        reported: another one, on which nothing was tuned.
    """

    pretrained: str
    family: str | None
    images: Callable[[Split, int], Dataset[Any]]
    ground: Callable[[], Ground]
    steered: tuple[str, ...]
    tuned: str
    reported: str


WORLDS = {
    "toybox": World(
        toybox.PIPELINE,
        None,
        lambda split, count: toybox.Scenes(split=split, num_scenes=count),
        toybox.Toybox,
        ("colour", "wall"),
        "transformer_blocks.3",
        "transformer_blocks.5",
    ),
    "photos": World(
        "package:tide_lightning.grounds.photos/dit",
        "tide_lightning.grounds.photos.PhotoDiT",
        lambda split, count: photos.Photos(split, num_images=count),
        photos.PhotoGround,
        ("class",),
        "transformer_blocks.5",
        "transformer_blocks.6",
    ),
}
"""By name."""
