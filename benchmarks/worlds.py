"""The grounds on which SAEs are set side by side, with the data that their packaged configs name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch.utils.data import Dataset

from tide_lightning.benchmark import GroundBenchmark
from tide_lightning.grounds import photos, toybox
from tide_lightning.grounds.ground import Split


class World(NamedTuple):
    """A ground and what is needed to read activations there.

    Fields:
        pretrained: the denoiser, as `data.pretrained` has it.
        family: its class path, as `data.family` has it.
        images: a split's first so many; 0 for all, where the ground has a number of them.
        benchmark: what is measured of meaning and cause.
        steered: the factors that are steered.
    """

    pretrained: str
    family: str | None
    images: Callable[[Split, int], Dataset[Any]]
    benchmark: Callable[..., GroundBenchmark]
    steered: tuple[str, ...]


def _on_toybox(**options: Any) -> GroundBenchmark:
    return GroundBenchmark(toybox.Toybox(), **options)


def _on_photos(**options: Any) -> GroundBenchmark:
    return GroundBenchmark(photos.PhotoGround(), **options)


WORLDS = {
    "toybox": World(
        toybox.PIPELINE,
        None,
        lambda split, count: toybox.Scenes(split=split, num_scenes=count),
        _on_toybox,
        ("colour", "wall"),
    ),
    "photos": World(
        "package:tide_lightning.grounds.photos/dit",
        "tide_lightning.grounds.photos.PhotoDiT",
        lambda split, count: photos.Photos(split, num_images=count),
        _on_photos,
        ("class",),
    ),
}
"""By name."""
