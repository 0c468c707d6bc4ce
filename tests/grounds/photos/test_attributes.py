from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tide_lightning.grounds.photos import ATTRIBUTES, Photographs, attributes, measure


def stripes(degrees: float) -> Tensor:
    """Stripes that run at an angle, anticlockwise from the horizontal, as people draw it."""
    down, right = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    angle = math.radians(degrees)
    return (0.7 * (down * math.cos(angle) + right * math.sin(angle))).sin().expand(1, 3, 32, 32)


def flat(red: float, green: float, blue: float) -> Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 32, 32) * 2 - 1


def value(image: Tensor, name: str) -> str:
    return ATTRIBUTES[name][int(attributes(image)[name])]


@given(st.floats(0, 180, exclude_max=True))
def test_the_angle_of_edges_is_that_of_stripes(degrees: float) -> None:
    measured = measure(stripes(degrees))
    apart = abs(float(measured.edge_angle) - degrees) % 180
    assert min(apart, 180 - apart) < 5  # of 32 pixels in a square
    assert measured.edge_coherence > 0.9


@pytest.mark.parametrize(("degrees", "name"), [(0, "horizontal"), (45, "rising"), (90, "vertical"), (135, "falling")])
def test_edges_have_names(degrees: float, name: str) -> None:
    assert value(stripes(degrees), "edges") == name


def test_noise_has_no_way_of_its_edges() -> None:
    noise = torch.randn(64, 1, 32, 32, generator=torch.Generator().manual_seed(0)).expand(-1, 3, -1, -1)
    assert (attributes(noise)["edges"] == ATTRIBUTES["edges"].index("none")).all()
    assert value(flat(0.5, 0.5, 0.5), "edges") == "none"


@pytest.mark.parametrize(
    ("colour", "name"),
    [
        ((1.0, 0.0, 0.0), "red"),
        ((1.0, 0.0, 0.4), "red"),
        ((0.8, 0.45, 0.1), "orange"),
        ((1.0, 1.0, 0.0), "yellow"),
        ((0.0, 1.0, 0.0), "green"),
        ((0.2, 0.4, 0.9), "blue"),
        ((0.5, 0.5, 0.52), "grey"),
    ],
)
def test_hues_have_names(colour: tuple[float, float, float], name: str) -> None:
    assert value(flat(*colour), "border_hue") == value(flat(*colour), "middle_hue") == name


def test_border_and_middle_are_told_apart() -> None:
    image = flat(0.0, 0.0, 1.0).clone()
    image[:, :, 8:24, 8:24] = flat(0.0, 1.0, 0.0)[:, :, :16, :16]
    assert (value(image, "border_hue"), value(image, "middle_hue")) == ("blue", "green")
    assert measure(image).border_saturation == 1
    image[:, :, 4:28, 4:28] = 0.0  # the middle, grey: the border stays what it is
    assert value(image, "border_hue") == "blue"
    assert value(image, "middle_hue") == "grey"


@given(st.floats(0, 1), st.floats(0, 0.5))
def test_brightness_and_contrast_are_those_of_two_greys(level: float, spread: float) -> None:
    low, high = max(0.0, level - spread), min(1.0, level + spread)
    image = torch.cat([flat(low, low, low)[..., :16], flat(high, high, high)[..., :16]], -1)
    measured = measure(image)
    assert float(measured.brightness) == pytest.approx((low + high) / 2, abs=1e-5)
    assert float(measured.contrast) == pytest.approx((high - low) / 2, abs=1e-5)
    assert float(measured.border_colour) < 1e-5


def test_thirds_are_thirds_of_photographs(photographs: Photographs) -> None:
    found = attributes(photographs.images.float() / 127.5 - 1)
    for name in ("brightness", "contrast", "border_saturation"):
        shares = torch.bincount(found[name], minlength=3) / len(photographs.images)
        assert (shares - 1 / 3).abs().max() < 0.08, name
    for name, values in ATTRIBUTES.items():
        assert set(found[name].tolist()) == set(range(len(values))), name
