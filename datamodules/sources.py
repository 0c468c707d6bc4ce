"""Images to be noised, and prompts: what a user named, to train on and held out."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.datamodules.prompts import (
    load_hub_dataset,
    read_columns,
    read_lines,
    read_prompts,
    require_columns,
    text_of,
)
from tide_lightning.errors import UserError, require_at_least

Part = Literal["train", "heldout"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}
_WHITE = 2**16 - 1
"""The largest grey of 16 bits."""


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
            captions = self.dataset.prompts([self._indices[place] for place in places])
        else:
            captions = [self.items([place])[0]["prompt"] for place in places]  # one image in memory at a time
        return [text_of(caption, f"{type(self.dataset).__name__}: a prompt") for caption in captions]

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
        raise UserError(f"a single {what} cannot be split in two: set data.heldout.{what}s")
    return range(count - num_heldout), range(count - num_heldout, count)


class ImageFolder(Dataset[dict[str, Any]]):
    """All images below a folder, with captions from metadata.csv, metadata.jsonl or a text file beside each image.

    The metadata file has a column `file_name`, relative to the folder, and one of captions. Without it `photo.jpg`
    takes what `photo.txt` says.

    Args:
        folder: searched with all its sub-folders; the order is that of the sorted paths.
        size: side of the square that images are cropped (about the centre) and scaled to.
        caption: column of captions in the metadata file; null for none, which trains on the empty prompt.
    """

    def __init__(self, folder: str, size: int, caption: str | None = "text") -> None:
        self._folder = Path(folder).expanduser()
        self._size = size
        if not self._folder.is_dir():
            raise UserError(f"image folder {self._folder}: no such folder")
        require_at_least(1, size=size)
        self._paths = sorted(path for path in _files(self._folder) if path.suffix.lower() in _SUFFIXES)
        if not self._paths:
            raise UserError(f"image folder {self._folder} holds no image ({', '.join(sorted(_SUFFIXES))})")
        self._captions = [""] * len(self._paths) if caption is None else self._read_captions(caption)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        path = self._paths[index]
        try:
            with Image.open(path) as picture:
                image = image_tensor(picture, self._size)
        except Exception as error:  # a decoder of Pillow's may raise anything
            # Pillow names the file in some of its messages and not in others.
            reason = "cut off or not an image" if str(path) in str(error) else error
            raise UserError(f"{path} does not decode: {reason}; remove it or mend it") from None
        return {"image": image, "prompt": self._captions[index]}

    def prompts(self, indices: list[int]) -> list[str]:
        """Captions, without decoding an image."""
        return [self._captions[index] for index in indices]

    def _read_captions(self, column: str) -> list[str]:
        for name in ("metadata.csv", "metadata.jsonl"):
            if (self._folder / name).is_file():
                names, texts = read_columns(self._folder / name, ["file_name", column])
                by_path = dict(zip((self._folder / name for name in names), texts, strict=True))
                return [self._of(path, by_path.get(path), f"a row in {name}") for path in self._paths]
        return [self._of(path, _sidecar(path), path.with_suffix(".txt").name) for path in self._paths]

    def _of(self, path: Path, caption: str | None, remedy: str) -> str:
        if caption is None:
            raise UserError(f"{path} has no caption: give {remedy}, or set caption: null to train without captions")
        return caption


class HubImages(Dataset[dict[str, Any]]):
    """Images with captions from a Hugging Face dataset, for `data.images`.

    Args:
        dataset: hub id or local folder.
        size: side that images are cropped and scaled to.
        split: of the dataset.
        image: column of images.
        caption: column of captions; null for none, which trains on the empty prompt.
        max_images: take no more than the first; 0 for all.
    """

    def __init__(
        self,
        dataset: str,
        size: int,
        split: str = "train",
        image: str = "image",
        caption: str | None = "text",
        max_images: int = 0,
    ) -> None:
        self._name, self._size, self._image, self._caption = dataset, size, image, caption
        rows = load_hub_dataset(dataset, split, streaming=False)
        require_columns(f"dataset {dataset}", [image, *([caption] if caption else [])], rows.column_names)
        self._rows = rows.select(range(min(max_images, len(rows)))) if max_images else rows
        self._captions = self._rows.select_columns([caption]) if caption else None

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor | str]:
        try:
            image = image_tensor(self._rows[index][self._image], self._size)
        except Exception as error:  # the decoder's own, of whichever library
            raise UserError(f"dataset {self._name}: image {index} does not decode: {error}") from error
        return {"image": image, "prompt": self.prompts([index])[0]}

    def prompts(self, indices: list[int]) -> list[str]:
        """Captions, without decoding an image."""
        if self._captions is None:
            return [""] * len(indices)
        where, rows = f"dataset {self._name}: {self._caption}", self._captions
        return [text_of(rows[index][self._caption], where) for index in indices]


def image_tensor(picture: Image.Image, size: int) -> Tensor:
    """A picture's central square, upright as its EXIF data say, scaled to [3, size, size] in [-1, 1]."""
    picture = ImageOps.exif_transpose(picture)
    if picture.mode == "F":
        raise ValueError("its pixels are floating-point numbers of no known range")
    is_deep = picture.mode.startswith("I")  # grey with more than 8 bits; Pillow's RGB has 8
    if is_deep:
        grey = np.asarray(picture, dtype=np.float32)
        if grey.min() < 0 or grey.max() > _WHITE:
            raise ValueError("its pixels have more than 16 bits")
        picture = Image.fromarray(grey)
    else:
        picture = picture.convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.crop((left, top, left + side, top + side)).resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / (_WHITE / 2 if is_deep else 127.5) - 1)
    return pixels.clamp(-1, 1).repeat(3, 1, 1) if is_deep else pixels.permute(2, 0, 1).contiguous()


def _files(folder: Path) -> Iterator[Path]:
    """All files below a folder, through links as well; each folder once, however many links lead to it."""
    seen: set[tuple[int, int]] = set()
    waiting, links = [folder], deque[Path]()
    try:
        while waiting or links:
            at = waiting.pop() if waiting else links.popleft()
            status = at.stat()
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            for path in sorted(at.iterdir()):
                if not path.is_dir():
                    yield path
                elif path.is_symlink():
                    links.append(path)
                else:
                    waiting.append(path)
    except OSError as error:
        raise UserError(f"cannot read image folder {at}: {error.strerror or error}") from None


def _sidecar(image: Path) -> str | None:
    path = image.with_suffix(".txt")
    return "\n".join(read_lines(path, "caption file ")).strip() if path.is_file() else None
