"""Scene i of seed s: labels and layout drawn from a counter, so that they do not depend on the batch.

B scenes, O = 2 object slots.
"""

from typing import Final, Literal, NamedTuple

import torch
from torch import Tensor

from tide_lightning.grounds.toybox.factors import (
    ABSENT,
    COLOURS,
    DISTANCES,
    LIGHTS,
    PLACES,
    SHAPES,
    SIZES,
    WALLS,
    Labels,
    is_held_out,
)

Split = Literal["train", "validation", "test", "oracle"]

SPLIT_START: Final[dict[str, int]] = {
    "train": 0,
    "validation": 1 << 30,
    "test": 2 << 30,
    "oracle": 3 << 30,
}
"""Each split has its own range of scene numbers; the oracles learn on a range of their own."""

ALL_PAIRS: Final = ("test", "oracle")
"""Splits that show the held-out pairs too: an oracle must be able to read them."""

TWO_OBJECT_SHARE: Final = 0.15
PLACE_X: Final = (-1.15, 0.0, 1.15)
DISTANCE_Z: Final = (-0.35, 0.95)
SIZE_RADIUS: Final = (0.50, 0.78)
POSITION_JITTER: Final = 0.06
RADIUS_JITTER: Final = 0.03
YAW: Final = 0.55
YAW_JITTER: Final = 0.12


class Layout(NamedTuple):
    """Where things are, in world units; the floor is y = 0 and z points away from the camera."""

    x_BO: Tensor
    z_BO: Tensor
    radius_BO: Tensor
    yaw_BO: Tensor
    tint_BO: Tensor  # brightness of the object's colour, around 1
    to_light_B3: Tensor  # unit vector


def uniforms(seed: int, index_B: Tensor, num: int) -> Tensor:
    """Uniform numbers in [0, 1), [B, num], a pure function of (seed, index, column)."""
    column = torch.arange(num, device=index_B.device)
    state = index_B.long()[:, None] * 0x632BE59BD9B4E019 + column * -0x61C8864680B583EB
    state = _mix(state + _mix(torch.tensor(seed, device=index_B.device)))
    # The upper 24 bits: exactly representable in float32, so the result never rounds up to 1.
    return ((state >> 40) & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    """The finaliser of splitmix64; int64 products wrap, and the mask makes the shift a logical one."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def _pairs(with_held_out: bool, device: torch.device) -> Tensor:
    pairs = [
        (shape, colour)
        for shape in range(len(SHAPES))
        for colour in range(len(COLOURS))
        if with_held_out or not is_held_out(shape, colour)
    ]
    return torch.tensor(pairs, device=device)


def _choice(u: Tensor, num: int) -> Tensor:
    return (u * num).long().clamp_(max=num - 1)


def draw_scenes(split: Split, index_B: Tensor, seed: int = 0) -> tuple[Labels, Layout]:
    """Labels and layouts of some scenes of a split, by their numbers; another seed is another world of the same rules.

    Held-out (shape, colour) pairs appear in `ALL_PAIRS` only.
    """
    u = uniforms(seed, index_B + SPLIT_START[split], 24)
    pairs = _pairs(split in ALL_PAIRS, index_B.device)
    pair_BO2 = pairs[_choice(u[:, 0:2], len(pairs))]
    shape, colour = pair_BO2.unbind(-1)
    size = _choice(u[:, 2:4], len(SIZES))
    distance = _choice(u[:, 4:6], len(DISTANCES))
    first_place = _choice(u[:, 6], len(PLACES))
    # The second object stands at one of the two other places.
    second_place = (first_place + 1 + _choice(u[:, 7], len(PLACES) - 1)) % len(PLACES)
    place = torch.stack([first_place, second_place], 1)
    alone = u[:, 8] >= TWO_OBJECT_SHARE
    # A large object would touch its neighbour: two objects side by side are small.
    crowded = ~alone & ((first_place - second_place).abs() == 1)
    size = size.masked_fill(crowded[:, None], 0)
    absent = torch.stack([torch.zeros_like(alone), alone], 1)
    labels = Labels(
        shape=shape.masked_fill(absent, ABSENT),
        colour=colour.masked_fill(absent, ABSENT),
        size=size.masked_fill(absent, ABSENT),
        place=place.masked_fill(absent, ABSENT),
        distance=distance.masked_fill(absent, ABSENT),
        wall=_choice(u[:, 9], len(WALLS)),
        light=_choice(u[:, 10], len(LIGHTS)),
    )
    return labels, _layout(labels, u[:, 11:24] * 2 - 1)


def draw_layout(labels: Labels, index_B: Tensor, seed: int = 0) -> Layout:
    """A layout for labels of your own, with the jitter of scene `index_B` of `seed`."""
    return _layout(labels, uniforms(seed, index_B, 24)[:, 11:24] * 2 - 1)


def _layout(labels: Labels, jitter: Tensor) -> Layout:
    device = jitter.device
    table = {
        "x": torch.tensor(PLACE_X, device=device),
        "z": torch.tensor(DISTANCE_Z, device=device),
        "radius": torch.tensor(SIZE_RADIUS, device=device),
    }
    side = labels.light.float() * 2 - 1
    to_light = torch.stack(
        [
            side * (0.85 + 0.06 * jitter[:, 10]),
            torch.full_like(side, 1.0),
            -0.55 + 0.06 * jitter[:, 11],
        ],
        -1,
    )
    return Layout(
        x_BO=table["x"][labels.place.clamp(min=0)] + POSITION_JITTER * jitter[:, 0:2],
        z_BO=table["z"][labels.distance.clamp(min=0)] + POSITION_JITTER * jitter[:, 2:4],
        radius_BO=table["radius"][labels.size.clamp(min=0)] * (1 + RADIUS_JITTER * jitter[:, 4:6]),
        yaw_BO=YAW + YAW_JITTER * jitter[:, 6:8],
        tint_BO=1 + 0.04 * jitter[:, 8:10],
        to_light_B3=torch.nn.functional.normalize(to_light, dim=-1),
    )
