"""Where photographs come from: mosaics, a folder a class, or a Hugging Face dataset; whose they are is up to the user.

Below a folder, `train` and `test` each hold a mosaic a class (`cat.jpg`, of 32 x 32 tiles read row first) or a folder a
class (`cat/*.png`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from tide_lightning.datamodules.prompts import load_hub_dataset
from tide_lightning.datamodules.sources import image_tensor
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos.classes import CLASSES

Split = Literal["train", "test"]
SIDE: Final = 32
VARIABLE: Final = "TIDE_PHOTOS"
"""The environment variable that names a source."""

NEARBY: Final = Path("..", "shared", "cifar10")
"""The folder that is looked for where no source is named."""

_SIZES: Final = {"train": 50_000, "test": 10_000}  # CIFAR-10's, for progress
_SUFFIXES: Final = (".jpg", ".jpeg", ".png")


class Photographs(NamedTuple):
    """Images and the numbers of what they show."""

    images: Tensor  # uint8 [N, 3, 32, 32]
    classes: Tensor  # [N]


def find_source(source: str | None = None) -> str:
    """The source that is meant: the one named, $TIDE_PHOTOS, or the folder nearby."""
    found = source or os.environ.get(VARIABLE) or str(NEARBY)
    if not found.startswith("hf:") and not Path(found).expanduser().is_dir():
        raise UserError(
            f"no photographs in {found}: name a folder that holds train/ and test/, or a dataset (hf:uoft-cs/cifar10),"
            f" or set {VARIABLE}; see docs/tutorials/photographs.md"
        )
    return found


def read_photographs(split: Split, source: str | None = None, num_images: int = 0) -> Photographs:
    """Photographs of a split (all, or the first so many), always in the same order, which mixes the classes."""
    found = find_source(source)
    if found.startswith("hf:"):
        return _from_hub(found.removeprefix("hf:"), split, num_images)
    folder = Path(found).expanduser() / split
    if not folder.is_dir():
        raise UserError(f"no photographs in {folder}: there should be a mosaic or a folder a class")
    parts = [_of_class(folder, name) for name in CLASSES]
    images, counts = torch.cat(parts), torch.tensor([len(part) for part in parts])
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[: num_images or None]
    return Photographs(images[order], torch.arange(len(CLASSES)).repeat_interleave(counts)[order])


def _of_class(folder: Path, name: str) -> Tensor:
    if (folder / name).is_dir():
        paths = sorted(path for path in (folder / name).iterdir() if path.suffix.lower() in _SUFFIXES)
        if paths:
            return torch.stack([_photograph(path) for path in track(paths, f"{folder.name}/{name}", transient=True)])
    for suffix in _SUFFIXES:
        if (path := folder / f"{name}{suffix}").is_file():
            return read_tiles(path)
    raise UserError(f"no photographs of {name} in {folder}: neither a mosaic {name}.jpg nor a folder {name}/ of images")


def read_tiles(path: Path) -> Tensor:
    """A mosaic's tiles [N, 3, 32, 32], row first."""
    with _opened(path) as picture:
        mosaic = np.asarray(picture.convert("RGB"))
    rows, columns = mosaic.shape[0] // SIDE, mosaic.shape[1] // SIDE
    if mosaic.shape[:2] != (rows * SIDE, columns * SIDE):
        raise UserError(f"mosaic {path} is {mosaic.shape[1]} x {mosaic.shape[0]}: its tiles are {SIDE} x {SIDE}")
    tiles = mosaic.reshape(rows, SIDE, columns, SIDE, 3).transpose(0, 2, 4, 1, 3)
    return torch.from_numpy(tiles.reshape(rows * columns, 3, SIDE, SIDE).copy())


def _photograph(path: Path) -> Tensor:
    with _opened(path) as picture:
        return _bytes(picture)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with Image.open(path) as picture:
            yield picture
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        raise UserError(f"{path} does not decode: cut off or not an image") from None


def _bytes(picture: Image.Image) -> Tensor:
    return image_tensor(picture, SIDE).add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def _from_hub(name: str, split: Split, num_images: int) -> Photographs:
    """Streamed, in the dataset's own order: nothing is kept on the disk, and the first images come first."""
    rows = load_hub_dataset(name, split, streaming=True)
    image, label = _columns(name, rows.features)
    names = rows.features[label].names
    if sorted(names) != sorted(CLASSES):
        raise UserError(f"dataset {name} has other classes than CIFAR-10's: {', '.join(map(str, names[:12]))}")
    numbers = [CLASSES.index(each) for each in names]
    images, classes = [], []
    wanted = num_images or _SIZES[split]
    for row in track(_taken(rows, num_images), f"{name} ({split})", total=wanted, transient=True):
        images.append(_bytes(row[image]))
        classes.append(numbers[row[label]])
    if not images:
        raise UserError(f"dataset {name} ({split}) is empty")
    return Photographs(torch.stack(images), torch.tensor(classes))


def _taken(rows: Any, num_images: int) -> Iterator[dict[str, Any]]:
    yield from rows.take(num_images) if num_images else rows


def _columns(name: str, features: Any) -> tuple[str, str]:
    """The columns of images and of classes."""
    kinds = {type(kind).__name__: column for column, kind in (features or {}).items()}
    if not {"Image", "ClassLabel"} <= set(kinds):
        raise UserError(f"dataset {name} has no column of images and one of classes: {', '.join(features or ['none'])}")
    return kinds["Image"], kinds["ClassLabel"]
