"""Prompts and images, to train on and held out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Literal

from tide_lightning.datamodules.prompts import read_prompts
from tide_lightning.errors import UserError

Part = Literal["train", "heldout"]


class Images:
    """A part of a map-style dataset of dict(image, prompt).

    A dataset may offer `__getitems__(indices)` to make many items at once, `prompts(indices)` to give captions without
    making images, and `factors(indices)` to give what is known of each image: {factor: [value, ...]}.
    """

    def __init__(self, dataset: Any, indices: range | None = None) -> None:
        self.dataset = dataset
        self._indices = range(len(dataset)) if indices is None else indices
        if not self._indices:
            raise UserError(f"{type(dataset).__name__} is empty: images are needed")

    def __len__(self) -> int:
        return len(self._indices)

    def items(self, places: Sequence[int]) -> list[Any]:
        """The items at some places."""
        indices = [self._indices[place] for place in places]
        if hasattr(self.dataset, "__getitems__"):
            return list(self.dataset.__getitems__(indices))
        return [self.dataset[index] for index in indices]

    def prompts(self, places: Sequence[int]) -> list[str]:
        """The captions at some places."""
        if callable(getattr(self.dataset, "prompts", None)):
            return [str(prompt) for prompt in self.dataset.prompts([self._indices[place] for place in places])]
        return [str(self.items([place])[0]["prompt"]) for place in places]  # one image in memory at a time

    def factors(self, places: Sequence[int]) -> list[dict[str, list[str]]]:
        """What is known of the images at some places; nothing unless the dataset tells."""
        if not callable(getattr(self.dataset, "factors", None)):
            return [{} for _ in places]
        return list(self.dataset.factors([self._indices[place] for place in places]))


class Captions(Sequence[str]):
    """The prompts of images, read when asked for."""

    def __init__(self, images: Images) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return self._images.prompts(range(len(self))[place])
        return self._images.prompts([place])[0]


class Corpus:
    """What a user named of prompts and images; what they did not hold out themselves, its last tenth is.

    Args:
        prompts: a text file or a list; None takes the images' captions.
        heldout_prompts: the same.
        images: a map-style dataset of dict(image, prompt), or None.
        heldout_images: the same.
    """

    def __init__(
        self,
        prompts: str | list[str] | None,
        heldout_prompts: str | list[str] | None,
        images: Any,
        heldout_images: Any,
    ) -> None:
        self._prompts = prompts
        self._heldout_prompts = heldout_prompts
        self._images = images
        self._heldout_images = heldout_images

    def prompts(self, part: Part) -> Sequence[str]:
        """Prompts to train on, or held out."""
        return self._both_prompts[0 if part == "train" else 1]

    def images(self, part: Part) -> Images | None:
        """Images to train on, or held out; None where there are none."""
        return self._both_images[0 if part == "train" else 1]

    def fingerprint(self) -> str:
        """Tells this corpus from others: a hash of all prompts, and of some captions where there are images."""
        digest = hashlib.sha256()
        images, prompts = self.images("train"), self.prompts("train")
        if images is not None:
            digest.update(f"{type(images.dataset).__name__} {len(images)}".encode())
        if isinstance(prompts, Captions):
            prompts = [prompts[place] for place in range(0, len(prompts), max(1, len(prompts) // 16))]
        for prompt in prompts:
            digest.update(prompt.encode() + b"\n")
        return digest.hexdigest()[:16]

    @cached_property
    def _both_prompts(self) -> tuple[Sequence[str], Sequence[str]]:
        if self._prompts is None:
            train, heldout = (Captions(images) for images in self._both_images if images is not None)
            return train, heldout if self._heldout_prompts is None else read_prompts(self._heldout_prompts)
        prompts = read_prompts(self._prompts)
        if self._heldout_prompts is not None:
            return prompts, read_prompts(self._heldout_prompts)
        split = _split(len(prompts), "prompt")
        return [prompts[i] for i in split[0]], [prompts[i] for i in split[1]]

    @cached_property
    def _both_images(self) -> tuple[Images | None, Images | None]:
        if self._images is None:
            return None, None if self._heldout_images is None else Images(self._heldout_images)
        if self._heldout_images is not None:
            return Images(self._images), Images(self._heldout_images)
        train, heldout = _split(len(self._images), "image")
        return Images(self._images, train), Images(self._images, heldout)


def _split(count: int, what: str) -> tuple[range, range]:
    num_heldout = max(1, count // 10)
    if count <= num_heldout:
        raise UserError(f"a single {what} cannot be split in two: set data.heldout_{what}s")
    return range(count - num_heldout), range(count - num_heldout, count)
