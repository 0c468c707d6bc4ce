"""Folders of images with captions, for `data.images`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.datamodules.tables import read_columns
from tide_lightning.errors import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff"}


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
        found = (Path(at) / name for at, _, names in os.walk(self._folder, followlinks=True) for name in names)
        self._paths = sorted(path for path in found if path.suffix.lower() in _SUFFIXES)
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
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
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


def image_tensor(picture: Image.Image, size: int) -> Tensor:
    """A picture's central square, scaled to [3, size, size] in [-1, 1]."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    square = picture.convert("RGB").crop((left, top, left + side, top + side))
    square = square.resize((size, size), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.asarray(square, dtype=np.float32) / 127.5 - 1)
    return pixels.permute(2, 0, 1).contiguous()


def _sidecar(image: Path) -> str | None:
    path = image.with_suffix(".txt")
    try:
        return path.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        raise UserError(f"caption file {path} is not UTF-8 (byte {error.start})") from None
