"""The photographs as a ground: what can be known of an image, what can be asked for, and who judges."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser
from tide_lightning.diffusion.counters import stream
from tide_lightning.errors import UserError
from tide_lightning.grounds.ground import ABSENT, About, Cases, Factor, Judge, LabelledImages, Level, Split
from tide_lightning.grounds.photos.attributes import BORDER, MIDDLE
from tide_lightning.grounds.photos.classes import CLASSES, KIND_OF_CLASS, KINDS
from tide_lightning.grounds.photos.classifiers import CLASSIFIERS
from tide_lightning.grounds.photos.dataset import FACTORS, Photos
from tide_lightning.grounds.photos.denoiser import SHIPPED, PhotoDiT
from tide_lightning.grounds.photos.judge import PhotoJudge
from tide_lightning.grounds.photos.sources import SIDE

_PARTS: Final = ("the whole image", "the border", "the middle")
"""The units of an image."""

_PART_OF: Final = {"border_hue": 1, "border_saturation": 1, "middle_hue": 2}
_TOLD: Final = ("class", "kind")
"""The factors that a prompt says something about: it names a class, and so its kind."""


class PhotoGround:
    """CIFAR-10's photographs: ten classes, two kinds, and attributes that are computed from pixels.

    Args:
        source: of photographs: a folder of train/ and test/ (mosaics, or a folder a class), or hf:OWNER/NAME of a
            Hugging Face dataset; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        pretrained: folder of the denoiser.
        judges: folder of the judges' classifiers; the repository's unless given.
    """

    name = "photos"
    image_shape = (3, SIDE, SIDE)

    def __init__(self, source: str | None = None, pretrained: str = SHIPPED, judges: str | None = None) -> None:
        self._source, self._pretrained, self._judges = source, pretrained, judges
        self._photos: dict[Split, Photos] = {}

    @property
    def factors(self) -> Mapping[str, Factor]:
        """All that varies, by name."""
        return {name: Factor(values, _level(name), _PARTS[_PART_OF.get(name, 0)]) for name, values in FACTORS.items()}

    def denoiser(self) -> Denoiser:
        """The photographs' own DiT."""
        return PhotoDiT(self._pretrained)

    def judges(self, device: str) -> tuple[Judge, ...]:
        """The whitened and the residual classifier."""
        folder = None if self._judges is None else Path(self._judges).expanduser()
        return tuple(PhotoJudge(name, device, folder) for name in CLASSIFIERS)

    def labelled(self, split: Split, count: int, seed: int, taken: frozenset[str] = frozenset()) -> LabelledImages:
        """Photographs of a split in an order by the seed; `taken` counts for nothing, as there are but ten classes."""
        photos = self._of(split)
        if count > len(photos):
            raise UserError(f"the photographs have {len(photos)} images in {split}, not {count}")
        order = torch.from_numpy(stream(seed, "photos", split).permutation(len(photos)))[:count]
        labels = {}
        for name, numbers in photos.labels(order).items():
            labels[name] = torch.full((count, len(_PARTS)), ABSENT)
            labels[name][:, _PART_OF.get(name, 0)] = numbers
        return LabelledImages(photos.images(order), photos.prompts(order), labels, _units().expand(count, -1, -1, -1))

    def cases(self, factor: str, about: About, split: Split, count: int, seed: int) -> Cases:
        """Prompts that name no class, or classes in turn.

        No prompt can ask for an attribute; prompts that are silent about one name classes.
        """
        if factor not in FACTORS:
            raise UserError(f"the photographs have no factor {factor!r}: {', '.join(FACTORS)}")
        numbers = self._drawn(split, count, seed)
        if factor not in _TOLD:
            if about == "contrary":
                raise UserError(f"no prompt mentions the {factor} of a photograph: steer it with silent prompts")
            unit = _PART_OF.get(factor, 0)
            region = _units()[0, unit].expand(count, -1, -1) if unit else None
            return Cases([CLASSES[number] for number in numbers], torch.full((count,), ABSENT), region=region)
        if factor == "class":
            own, changed = numbers, [[name] * count for name in CLASSES]
        else:
            own = [KIND_OF_CLASS[number] for number in numbers]
            members = [
                [number for number, kind in enumerate(KIND_OF_CLASS) if kind == each] for each in range(len(KINDS))
            ]
            changed = [[CLASSES[of[number % len(of)]] for number in numbers] for of in members]
        if about == "silent":
            return Cases([""] * count, torch.full((count,), ABSENT), changed)
        return Cases([CLASSES[number] for number in numbers], torch.tensor(own), changed)

    def mentioned(self, prompt: str) -> frozenset[str]:
        """Class and kind, where a class is named."""
        return frozenset(_TOLD if prompt else ())

    def _of(self, split: Split) -> Photos:
        if split not in self._photos:
            self._photos[split] = Photos(split, self._source)
        return self._photos[split]

    def _drawn(self, split: Split, count: int, seed: int) -> list[int]:
        """Classes as evenly as can be, in an order of chance."""
        generator = stream(seed, "photos", "cases", split)
        rounds = -(-count // len(CLASSES))
        return [int(number) for _ in range(rounds) for number in generator.permutation(len(CLASSES))][:count]


def _level(factor: str) -> Level:
    return "class" if factor in _TOLD else "semantics"


def _units() -> Tensor:
    """Which pixels belong to the whole, the border and the middle [1, 3, H, W]."""
    whole = torch.ones(SIDE, SIDE)
    border, middle = whole.clone(), torch.zeros(SIDE, SIDE)
    border[BORDER:-BORDER, BORDER:-BORDER] = 0
    middle[MIDDLE:-MIDDLE, MIDDLE:-MIDDLE] = 1
    return torch.stack([whole, border, middle]).unsqueeze(0)
