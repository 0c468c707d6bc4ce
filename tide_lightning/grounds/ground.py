"""What a ground is: a world in which features can be checked, because what its images show is known.

A ground is a denoiser, labelled images, factors with their values, prompts about a value, and judges that read the
values back from an image. What not every world can tell (where in an image things are, how far away, prompts that ask
for a value) is optional in the types below.

Shapes: N images of H x W pixels, U units an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

from torch import Tensor

from tide_lightning.diffusion import Denoiser

Level = Literal["layout", "class", "semantics"]
"""Of the paper's hierarchy of features: where things are; what they are; how they look."""

Split = Literal["train", "test"]
"""What is chosen is chosen on train, and measured on test."""

About = Literal["silent", "contrary"]
"""Prompts that do not mention a factor, or that mention a value of it other than the target."""

ABSENT = -1
"""The label of a unit that does not have the factor."""


class Factor(NamedTuple):
    """Something that varies from image to image and takes one of a few values.

    Fields:
        values: by name, in the order of their numbers.
        level: of the hierarchy.
        read_from: the part of an image that shows it, in words for the report. Factors of one part have the same units
            and are measured together.
    """

    values: tuple[str, ...]
    level: Level = "semantics"
    read_from: str = "the whole image"


@dataclass(frozen=True)
class LabelledImages:
    """Images with all that is known about them.

    A unit is a part of an image that has factors of its own: an object, or the image as a whole.

    Args:
        images: [N, 3, H, W] in [-1, 1].
        prompts: what the denoiser is told of each: a caption, the name of a class, or nothing.
        labels: for each factor the number of its value in each unit [N, U], ABSENT where the unit does not have it.
        units: the share of each pixel that belongs to each unit [N, U, H, W]; unless given there is one, the image.
        maps: a number known of every pixel, by name, such as its depth [N, H, W].
        masks: the share of every pixel that something covers, by name, such as objects [N, H, W].
    """

    images: Tensor
    prompts: list[str]
    labels: Mapping[str, Tensor]
    units: Tensor | None = None
    maps: Mapping[str, Tensor] = field(default_factory=dict)
    masks: Mapping[str, Tensor] = field(default_factory=dict)


class Cases(NamedTuple):
    """P prompts on which one factor is steered.

    Fields:
        prompts: alike but for what they say of the factor.
        own: the number of the value that each of them mentions, ABSENT where it mentions none [P].
        changed: the same prompts with each value of the factor mentioned instead, P for each value; empty where no
            prompt can ask for a value of this factor.
        region: the share of each pixel in which the factor will show [P, H, W]; None for the whole image.
    """

    prompts: list[str]
    own: Tensor
    changed: Sequence[list[str]] = ()
    region: Tensor | None = None


class Judge(Protocol):
    """Reads images [N, 3, H, W] in [-1, 1] on the device that it was made for."""

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The probability of each value of each factor [N, values]."""
        ...

    def checks(self, images: Tensor) -> dict[str, Tensor]:
        """What else should be true of an image, by name, whatever its factors are [N] bool; may be empty."""
        ...


def likeliest(judge: Judge, images: Tensor) -> dict[str, Tensor]:
    """The number of each factor's likeliest value, as a judge reads images [N]."""
    return {factor: chances.argmax(1) for factor, chances in judge.read(images).items()}


class Ground(Protocol):
    """A world in which features can be checked.

    YAML names an implementation by its class path; its methods must be annotated as they are here.
    """

    @property
    def name(self) -> str:
        """A word: the ground's key in metrics.json."""
        ...

    @property
    def factors(self) -> Mapping[str, Factor]:
        """All that varies, by name."""
        ...

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of its images: a denoiser of others is refused."""
        ...

    def denoiser(self) -> Denoiser:
        """The ground's own, frozen, on the CPU."""
        ...

    def judges(self, device: str) -> tuple[Judge, ...]:
        """At least two, of different architectures; the first chooses, the others confirm."""
        ...

    def labelled(self, split: Split, count: int, seed: int, taken: frozenset[str] = frozenset()) -> LabelledImages:
        """The same images for the same arguments, of any count; those of different splits share none.

        Args:
            split: of which.
            count: how many.
            seed: which; 0 is what the denoiser was trained on, where the ground has others.
            taken: prompts that must not occur again, as far as the ground has others.
        """
        ...

    def cases(self, factor: str, about: About, split: Split, count: int, seed: int) -> Cases:
        """Prompts to steer one factor on; those of different splits are different, as far as the ground has enough."""
        ...

    def mentioned(self, prompt: str) -> frozenset[str]:
        """The factors that a prompt says something about; it leaves the others open."""
        ...
