"""What can be read off a photograph's pixels: brightness, contrast, the colours of border and middle, edges.

Shapes: images are [N, 3, H, W] in [-1, 1]; a measurement is a number for each, a value one of a few words.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import torch
from torch import Tensor

BORDER: Final = 4
"""Pixels from the edge that are the border."""

MIDDLE: Final = 8
"""Pixels from the edge from which on an image is its middle."""

HUES: Final = {"red": 330.0, "orange": 20.0, "yellow": 45.0, "green": 75.0, "blue": 165.0}
"""Where each hue begins, in degrees; the last goes on to the first, for photographs have next to no purple."""

GREY: Final = 0.08
"""Mean colour, of at most 1, below which a part of an image has no hue."""

SLOPES: Final = ("horizontal", "rising", "vertical", "falling")
"""How edges run, each for 45 degrees about it."""

AIMLESS: Final = 0.2
"""Coherence, of at most 1, below which edges run no one way."""


class _Terciles(NamedTuple):
    """Where a measurement's low values end and its high ones begin: thirds of the training images."""

    low: float
    high: float


AMOUNTS: Final = ("low", "medium", "high")
_TERCILES: Final = {
    "brightness": _Terciles(0.43, 0.52),
    "contrast": _Terciles(0.17, 0.22),
    "border_saturation": _Terciles(0.08, 0.14),
}

ATTRIBUTES: Final[dict[str, tuple[str, ...]]] = {
    "brightness": AMOUNTS,
    "contrast": AMOUNTS,
    "border_saturation": AMOUNTS,
    "border_hue": (*HUES, "grey"),
    "middle_hue": (*HUES, "grey"),
    "edges": (*SLOPES, "none"),
}
"""Every attribute with its values, in the order of their numbers."""


class Measurements(NamedTuple):
    """Attributes before they are cut into bins, [N] each."""

    brightness: Tensor
    """Mean luminance, 0 to 1."""

    contrast: Tensor
    """Standard deviation of the luminance."""

    border_saturation: Tensor
    """Mean over the border of the largest less the smallest of a pixel's colours."""

    border_hue: Tensor
    """Degrees of the border's mean colour: 0 red, 120 green, 240 blue."""

    border_colour: Tensor
    """How far the border's mean colour is from grey."""

    middle_hue: Tensor
    """Degrees of the middle's mean colour."""

    middle_colour: Tensor
    """How far the middle's mean colour is from grey."""

    edge_angle: Tensor
    """Degrees, 0 to 180, along which edges run: 0 is horizontal, 45 rises to the right."""

    edge_coherence: Tensor
    """0 where edges run everywhere alike, 1 where all run one way."""


def measure(image_N3HW: Tensor) -> Measurements:
    """All measurements of some images."""
    rgb = image_N3HW.float().clamp(-1, 1).add(1).div(2)
    luminance = (rgb * rgb.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1)
    height, width = luminance.shape[1:]
    border = torch.ones(height, width, dtype=torch.bool, device=rgb.device)
    border[BORDER:-BORDER, BORDER:-BORDER] = False
    outer, inner = rgb[:, :, border], rgb[:, :, MIDDLE:-MIDDLE, MIDDLE:-MIDDLE].flatten(2)
    border_hue, border_colour = _hue(outer.mean(2))
    middle_hue, middle_colour = _hue(inner.mean(2))
    angle, coherence = _edges(luminance)
    return Measurements(
        brightness=luminance.mean((1, 2)),
        contrast=luminance.flatten(1).std(1, correction=0),
        border_saturation=(outer.amax(1) - outer.amin(1)).mean(1),
        border_hue=border_hue,
        border_colour=border_colour,
        middle_hue=middle_hue,
        middle_colour=middle_colour,
        edge_angle=angle,
        edge_coherence=coherence,
    )


def attributes(image_N3HW: Tensor) -> dict[str, Tensor]:
    """The number of each attribute's value, [N] each."""
    measured = measure(image_N3HW)
    edges = ((measured.edge_angle + 22.5) % 180 / 45).long().clamp(max=len(SLOPES) - 1)
    return {
        **{name: _binned(getattr(measured, name), terciles) for name, terciles in _TERCILES.items()},
        "border_hue": _hue_number(measured.border_hue, measured.border_colour),
        "middle_hue": _hue_number(measured.middle_hue, measured.middle_colour),
        "edges": edges.where(measured.edge_coherence >= AIMLESS, len(SLOPES)),
    }


def _hue(colour_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Angle in degrees about the grey axis, and distance from it: 1 for a pure colour."""
    red, green, blue = colour_N3.unbind(1)
    along, across = red - (green + blue) / 2, (green - blue) * math.sqrt(3) / 2
    return torch.atan2(across, along).rad2deg() % 360, torch.hypot(along, across)


def _edges(luminance_NHW: Tensor) -> tuple[Tensor, Tensor]:
    """How edges run and how much alike, by the structure tensor: squares and products of both slopes, summed."""
    down = (luminance_NHW[:, 2:, 1:-1] - luminance_NHW[:, :-2, 1:-1]) / 2
    right = (luminance_NHW[:, 1:-1, 2:] - luminance_NHW[:, 1:-1, :-2]) / 2
    dd, rr, dr = ((a * b).sum((1, 2)) for a, b in ((down, down), (right, right), (down, right)))
    # The brightness rises at an angle whose double has this sine and cosine; edges run across, and rows count downward.
    angle = (90 - torch.atan2(2 * dr, rr - dd).rad2deg() / 2) % 180
    return angle, torch.hypot(rr - dd, 2 * dr) / (rr + dd).clamp(min=1e-12)


def _binned(measured: Tensor, terciles: _Terciles) -> Tensor:
    return torch.bucketize(measured, measured.new_tensor(terciles))


def _hue_number(hue: Tensor, colour: Tensor) -> Tensor:
    first, *others = HUES.values()
    turned = (hue - first) % 360
    number = torch.bucketize(turned, turned.new_tensor([(start - first) % 360 for start in others]), right=True)
    return number.where(colour >= GREY, len(HUES))
