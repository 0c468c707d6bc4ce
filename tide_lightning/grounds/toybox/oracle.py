"""Two oracles of different architecture that read a scene's factors back from an image.

Both look at each of the three places (is something there, and what?) and at the room, so that scenes with two
objects are read as well. B images, P = 3 places.
"""

from pathlib import Path
from typing import Final, Literal, NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tide_lightning.grounds.toybox.factors import FACTORS, OBJECT_FACTORS, PLACES

OracleName = Literal["a", "b"]
ORACLES: Final[tuple[OracleName, ...]] = ("a", "b")

_AT_PLACE: Final = tuple(name for name in OBJECT_FACTORS if name != "place")
_SIZES: Final = [1] + [len(FACTORS[name]) for name in _AT_PLACE]
NUM_OUTPUTS: Final = len(PLACES) * sum(_SIZES) + len(FACTORS["wall"]) + len(FACTORS["light"])


class Logits(NamedTuple):
    """What an oracle says, before any softmax."""

    presence: Tensor  # [B, P]
    at_place: dict[str, Tensor]  # factor name to [B, P, values]
    wall: Tensor  # [B, 4]
    light: Tensor  # [B, 2]


class Oracle(nn.Module):
    """Reads shape, colour, size, place, distance, wall and light from images in [-1, 1].

    Its body is any network from images [B, 3, 64, 64] to [B, NUM_OUTPUTS].
    """

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, image_B3HW: Tensor) -> Logits:
        """Logits for every place and for the room."""
        flat = self.body(image_B3HW).float()
        room = flat[:, -len(FACTORS["wall"]) - len(FACTORS["light"]) :]
        places = flat[:, : len(PLACES) * sum(_SIZES)].unflatten(1, (len(PLACES), sum(_SIZES)))
        presence, *factors = places.split(_SIZES, dim=-1)
        wall, light = room.split([len(FACTORS["wall"]), len(FACTORS["light"])], dim=-1)
        return Logits(presence.squeeze(-1), dict(zip(_AT_PLACE, factors, strict=True)), wall, light)

    @torch.no_grad()
    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The probability of each value of each factor, [B, values], for the one object of each image.

        The place is a softmax over presences; other object factors are averaged over it.
        """
        logits = self(images)
        place_BP = logits.presence.softmax(-1)
        by_name = {name: (place_BP[..., None] * logits.at_place[name].softmax(-1)).sum(1) for name in _AT_PLACE}
        by_name |= {
            "place": place_BP,
            "wall": logits.wall.softmax(-1),
            "light": logits.light.softmax(-1),
        }
        return {name: by_name[name] for name in FACTORS}

    @torch.no_grad()
    def count(self, image_B3HW: Tensor) -> Tensor:
        """How many objects each image shows, [B]."""
        presence: Tensor = self(image_B3HW).presence
        return (presence > 0).sum(1)

    def checks(self, images: Tensor) -> dict[str, Tensor]:
        """Whether each image shows one object."""
        return {"one_object": self.count(images) == 1}

    @torch.no_grad()
    def objects(self, image_B3HW: Tensor) -> list[list[dict[str, str]]]:
        """The objects of each image as factor values by name, from left to right."""
        logits = self(image_B3HW)
        values = {name: scores.argmax(-1).tolist() for name, scores in logits.at_place.items()}
        return [
            [
                {name: FACTORS[name][values[name][image][place]] for name in _AT_PLACE} | {"place": PLACES[place]}
                for place, there in enumerate(row)
                if there
            ]
            for image, row in enumerate((logits.presence > 0).tolist())
        ]


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.GroupNorm(8, channels),
            nn.SiLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


def convolutional_body() -> nn.Module:
    """Oracle a: a residual convolutional network that halves the image four times."""
    widths = (24, 48, 72, 96)
    layers: list[nn.Module] = []
    before = 3
    for width in widths:
        layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), _Residual(width)]
        before = width
    # The map is kept as a map, 4 x 4: where a thing stands must not be pooled away.
    layers += [nn.GroupNorm(8, before), nn.SiLU(), nn.Conv2d(before, 32, 1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(512, 128), nn.SiLU(), nn.Linear(128, NUM_OUTPUTS))


class _MixerBlock(nn.Module):
    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm_tokens, self.norm_channels = nn.LayerNorm(width), nn.LayerNorm(width)
        self.over_tokens = nn.Sequential(
            nn.Linear(tokens, 2 * tokens),
            nn.GELU(approximate="tanh"),
            nn.Linear(2 * tokens, tokens),
        )
        self.over_channels = nn.Sequential(
            nn.Linear(width, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, width)
        )

    def forward(self, x_BTD: Tensor) -> Tensor:
        x_BTD = x_BTD + self.over_tokens(self.norm_tokens(x_BTD).mT).mT
        y: Tensor = x_BTD + self.over_channels(self.norm_channels(x_BTD))
        return y


class _Patches(nn.Module):
    """Non-overlapping patches as tokens: no convolution anywhere else in this oracle."""

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, width, patch, stride=patch)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.project(image).flatten(2).mT
        return tokens


def mixer_body(width: int = 128, depth: int = 4) -> nn.Module:
    """Oracle b: an MLP-mixer on 8 x 8 patches."""
    return nn.Sequential(
        _Patches(8, width),
        *(_MixerBlock(64, width) for _ in range(depth)),
        nn.LayerNorm(width),
        nn.Linear(width, 16),
        nn.Flatten(),
        nn.Linear(1024, 128),
        nn.GELU(approximate="tanh"),
        nn.Linear(128, NUM_OUTPUTS),
    )


def build_oracle(name: OracleName) -> Oracle:
    """An untrained oracle."""
    return Oracle(convolutional_body() if name == "a" else mixer_body())


def save_oracle(oracle: Oracle, path: Path) -> None:
    """Write an oracle in half precision: half the size, and its answers stay the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.half().contiguous() for key, value in oracle.state_dict().items()}, path)


def load_oracle(name: OracleName) -> Oracle:
    """A trained oracle of the package, ready to read."""
    if name not in ORACLES:
        raise ValueError(f"there is no oracle {name!r}: take 'a' (convolutional) or 'b' (mixer)")
    oracle = build_oracle(name)
    state = load_file(Path(__file__).parent / "oracles" / f"{name}.safetensors")
    oracle.load_state_dict({key: value.float() for key, value in state.items()})
    return oracle.eval().requires_grad_(False)
