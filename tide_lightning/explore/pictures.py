"""Images side by side with a word above each, as one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from tide_lightning.datamodules.sources import image_tensor
from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.files import check_writable, whole_file

_GAP, _TITLE, _LETTERS, _LEAST_SIDE = 8, 22, 15, 180
_PAPER, _INK = (255, 255, 255), (40, 40, 40)


def to_picture(image: Tensor) -> Image.Image:
    """An image [3, H, W] in [-1, 1]."""
    pixels = ((image.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy()))


def read_picture(denoiser: Denoiser, path: str | Path, name: str = "") -> Tensor:
    """A picture file, cut to a square and scaled to what the denoiser draws; `name` is the option that it came by."""
    try:
        with Image.open(path) as picture:
            found = image_tensor(picture, denoiser.image_shape[-1])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if reason := getattr(error, "strerror", None):
            raise UserError(f"{name} {path}: {reason}".lstrip()) from error
        raise UserError(f"{name} {path}: cannot be read as a picture ({error})".lstrip()) from error
    if tuple(found.shape) != denoiser.image_shape:
        raise UserError(f"{name} {path}: this denoiser draws {list(denoiser.image_shape)}, no such squares".lstrip())
    return found


def heat(values: Tensor) -> Tensor:
    """Numbers [H, W] in [0, 1] as an image [3, H, W] in [-1, 1], from black over red and yellow to white."""
    ramp = torch.stack([3 * values, 3 * values - 1, 3 * values - 2])
    return ramp.clamp(0, 1) * 2 - 1


def sheet(rows: Sequence[Sequence[tuple[str, Tensor]]], notes: Sequence[str] = ()) -> Image.Image:
    """Rows of titled images, small ones enlarged, and notes below them."""
    height, width = rows[0][0][1].shape[-2:]
    factor = max(1, -(-_LEAST_SIDE // min(height, width)))
    height, width = height * factor, width * factor
    columns = max(map(len, rows))
    font, across = ImageFont.load_default(_LETTERS), columns * (width + _GAP) + _GAP
    lines = [line for note in notes for line in _wrapped(note, font, across - 2 * _GAP)]
    down = len(rows) * (height + _TITLE + _GAP) + _GAP
    whole = Image.new("RGB", (across, down + len(lines) * _TITLE), _PAPER)
    draw = ImageDraw.Draw(whole)
    for number, line in enumerate(lines):
        draw.text((_GAP, down - _GAP // 2 + number * _TITLE), line, fill=_INK, font=font)
    for number, row in enumerate(rows):
        top = _GAP + number * (height + _TITLE + _GAP)
        for place, (title, image) in enumerate(row):
            left = _GAP + place * (width + _GAP)
            draw.text((left, top), _fitting(title, font, width), fill=_INK, font=font)
            picture = to_picture(image).resize((width, height), Image.Resampling.NEAREST)
            whole.paste(picture, (left, top + _TITLE))
    return whole


def picture_format(path: str | Path) -> str:
    """What kind of picture a file's name asks for."""
    path = Path(path)
    kinds: dict[str, str] = Image.registered_extensions()
    if kinds.get(path.suffix.lower()) not in Image.SAVE:
        raise UserError(f"{path}: name a picture's file, such as {path.stem or 'steered'}.png")
    return kinds[path.suffix.lower()]


def check_picture(path: str | Path) -> None:
    """Refuse a picture that could not be saved, before it is drawn."""
    picture_format(path)
    check_writable(Path(path))


def save_picture(picture: Image.Image, path: str | Path) -> Path:
    """Write it; the ending of the name says as what, and the file appears whole or not at all."""
    path, kind = Path(path), picture_format(path)
    try:
        with whole_file(path) as part:
            picture.save(part, format=kind)
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())})") from error
    return path


def _wrapped(note: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> list[str]:
    """A note in lines that are not wider."""
    lines: list[str] = []
    for word in note.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and _fitting(longer, font, width) == longer:
            lines[-1] = longer
        else:
            lines.append(_fitting(word, font, width))
    return lines


def _fitting(title: str, font: ImageFont.ImageFont | ImageFont.FreeTypeFont, width: int) -> str:
    title = title.encode("latin-1", "replace").decode("latin-1")  # what the font has
    while title and font.getlength(title) > width:
        title = title[:-1]
    return title
