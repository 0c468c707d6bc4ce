"""Synthetic photographs, so that nothing needs the real ones; and the real ones, where they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.grounds.photos import CLASSES, PhotoDiT, Photographs, find_source, read_photographs
from tide_lightning.grounds.photos.denoiser import SHIPPED, build_transformer

SIDE = 32
COLUMNS = 5
COUNTS = {"train": 20, "test": 10}
"""Synthetic images a class: whole rows of a mosaic."""


def images_of(split: str, number: int) -> Tensor:
    """A class's synthetic images, uint8 [N, 3, 32, 32]: a colour of its own with noise that tells them apart."""
    generator = torch.Generator().manual_seed(1000 * number + len(split))
    colour = torch.randint(60, 200, (1, 3, 1, 1), generator=generator)
    noise = torch.randint(-40, 40, (COUNTS[split], 3, SIDE, SIDE), generator=generator)
    return (colour + noise).clamp(0, 255).to(torch.uint8)


def write_mosaic(images: Tensor, path: Path) -> None:
    """Images as a mosaic; PNG, so that nothing is lost."""
    rows = images.unflatten(0, (-1, COLUMNS)).permute(0, 3, 1, 4, 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(rows.flatten(0, 1).flatten(1, 2))).save(path)


@pytest.fixture(scope="session")
def mosaics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of synthetic mosaics."""
    folder = tmp_path_factory.mktemp("mosaics")
    for split in COUNTS:
        for number, name in enumerate(CLASSES):
            write_mosaic(images_of(split, number), folder / split / f"{name}.png")
    return folder


@pytest.fixture(scope="session")
def small_dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained DiT of two narrow blocks."""
    folder = tmp_path_factory.mktemp("dit")
    torch.manual_seed(0)
    config = dict(build_transformer().config)
    build_transformer(config | {"num_layers": 2, "attention_head_dim": 8}).half().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def photographs() -> Photographs:
    """Some of the real ones' test images."""
    try:
        return read_photographs("test", find_source(), 500)
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def denoiser() -> PhotoDiT:
    """The repository's."""
    try:
        return PhotoDiT(SHIPPED)
    except UserError as error:
        pytest.skip(str(error))
