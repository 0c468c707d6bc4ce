"""What can vary in the toybox world: the factors, their values and the pairs kept out of training."""

from typing import Final, NamedTuple

from torch import Tensor

SHAPES: Final = ("sphere", "cube", "cone", "cylinder", "ring")
COLOURS: Final = ("red", "yellow", "green", "cyan", "blue", "purple", "white", "black")
SIZES: Final = ("small", "large")
PLACES: Final = ("left", "centre", "right")
DISTANCES: Final = ("near", "far")
WALLS: Final = ("peach", "mint", "sky", "slate")
LIGHTS: Final = ("left", "right")

FACTORS: Final[dict[str, tuple[str, ...]]] = {
    "shape": SHAPES,
    "colour": COLOURS,
    "size": SIZES,
    "place": PLACES,
    "distance": DISTANCES,
    "wall": WALLS,
    "light": LIGHTS,
}
"""Every factor with its values, in the order of the integer labels."""

OBJECT_FACTORS: Final = ("shape", "colour", "size", "place", "distance")
"""Factors that each object has for itself; wall and light belong to the scene."""

HELD_OUT_PAIRS: Final = (
    ("sphere", "green"),
    ("cube", "yellow"),
    ("cone", "blue"),
    ("cylinder", "red"),
)
"""Shape and colour pairs that no training or validation scene shows."""

MAX_OBJECTS: Final = 2
ABSENT: Final = -1


class Labels(NamedTuple):
    """Integer labels of a batch of scenes; object factors are [B, 2], with -1 for an absent object."""

    shape: Tensor
    colour: Tensor
    size: Tensor
    place: Tensor
    distance: Tensor
    wall: Tensor  # [B]
    light: Tensor  # [B]

    @property
    def num_objects(self) -> Tensor:
        """How many objects each scene has, [B]."""
        return (self.shape != ABSENT).sum(1)

    def take(self, index: Tensor | slice) -> "Labels":
        """The labels of some of the scenes."""
        return Labels(*(label[index] for label in self))


def is_held_out(shape: int, colour: int) -> bool:
    """Whether a pair of labels is kept out of training."""
    return (SHAPES[shape], COLOURS[colour]) in HELD_OUT_PAIRS
