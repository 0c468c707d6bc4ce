"""Photographs as a dataset: images with their class as prompt for training, labels for whoever asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.grounds.photos.attributes import ATTRIBUTES, attributes
from tide_lightning.grounds.photos.classes import CLASSES, KIND_OF_CLASS, KINDS
from tide_lightning.grounds.photos.sources import Split, read_photographs

FACTORS: Final[dict[str, tuple[str, ...]]] = {"class": CLASSES, "kind": KINDS, **ATTRIBUTES}
"""Every factor with its values, in the order of the integer labels."""


class Photo(TypedDict):
    """An item of `Photos`."""

    image: Tensor  # [3, 32, 32] in [-1, 1]
    prompt: str


class Photos(Dataset[Photo]):
    """CIFAR-10's photographs, their class as prompt; the classes are mixed, so the first n are fair to all.

    Args:
        split: "train" or "test".
        source: a folder of train/ and test/ (mosaics, or a folder a class) or hf:OWNER/NAME of a Hugging Face dataset;
            unless given $TIDE_PHOTOS, or ../shared/cifar10.
        num_images: the first so many; 0 for all.
    """

    def __init__(self, split: Split = "train", source: str | None = None, num_images: int = 0) -> None:
        if split not in ("train", "test"):
            raise ValueError(f"there is no split {split!r}: take train or test")
        self._images, self._classes = read_photographs(split, source, num_images)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> Photo:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Photo]:
        """Several at once."""
        images, prompts = self.images(indices), self.prompts(indices)
        return [{"image": image, "prompt": prompt} for image, prompt in zip(images, prompts, strict=True)]

    def images(self, indices: Sequence[int] | Tensor) -> Tensor:
        """Images alone [N, 3, 32, 32] in [-1, 1]."""
        return self._images[self._checked(indices)].float() / 127.5 - 1

    def prompts(self, indices: Sequence[int] | Tensor) -> list[str]:
        """Classes alone, by name."""
        return [CLASSES[number] for number in self._classes[self._checked(indices)].tolist()]

    def labels(self, indices: Sequence[int] | Tensor) -> dict[str, Tensor]:
        """The number of each factor's value, [N] each."""
        classes = self._classes[self._checked(indices)]
        kinds = torch.tensor(KIND_OF_CLASS)[classes]
        return {"class": classes, "kind": kinds, **attributes(self.images(indices))}

    def factors(self, indices: Sequence[int] | Tensor) -> list[dict[str, list[str]]]:
        """The value that each image shows of every factor, by name."""
        columns = {name: numbers.tolist() for name, numbers in self.labels(indices).items()}
        return [
            {name: [FACTORS[name][numbers[row]]] for name, numbers in columns.items()} for row in range(len(indices))
        ]

    def _checked(self, indices: Sequence[int] | Tensor) -> Tensor:
        index = torch.as_tensor(indices, dtype=torch.long)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            # IndexError also ends a plain `for photo in photos`.
            raise IndexError(f"photograph out of range: there are {len(self)}")
        return index
