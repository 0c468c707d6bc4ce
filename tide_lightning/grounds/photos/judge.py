"""Judges: a classifier says what a photograph shows, its pixels say how it looks."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from tide_lightning.errors import UserError
from tide_lightning.grounds.photos.attributes import ATTRIBUTES, attributes
from tide_lightning.grounds.photos.classes import KIND_OF_CLASS, KINDS
from tide_lightning.grounds.photos.classifiers import ClassifierName, load_classifier
from tide_lightning.grounds.photos.dataset import FACTORS

CLEAR: Final = 0.5
"""Chance that some class must have in an image of something."""


class PhotoJudge:
    """Reads every factor of images: class and kind as a classifier sees them, attributes as they are.

    Args:
        classifier: which of the two; attributes are the same for both.
        device: where images come from.
        folder: of classifiers; the repository's unless given.
    """

    def __init__(self, classifier: ClassifierName, device: str = "cpu", folder: Path | None = None) -> None:
        self._classifier = load_classifier(classifier, folder).to(device)
        self._kinds = one_hot(torch.tensor(KIND_OF_CLASS, device=device), len(KINDS)).float()

    def read(self, images: Tensor) -> dict[str, Tensor]:
        """The probability of each value of each factor [N, values]; of attributes, which are measured, 0 or 1."""
        classes = self._classifier.probabilities(images)
        measured = {name: one_hot(number, len(ATTRIBUTES[name])).float() for name, number in attributes(images).items()}
        return {"class": classes, "kind": classes @ self._kinds, **measured}

    def checks(self, images: Tensor) -> dict[str, Tensor]:
        """Whether an image is clearly of something."""
        return {"clear": self._classifier.probabilities(images).amax(1) >= CLEAR}


class PhotoValueJudge:
    """The chance that an image shows one value, for what asks for a classifier by its class path.

    Args:
        target: such as "class:cat".
        classifier: which of the two.
    """

    def __init__(self, target: str, classifier: ClassifierName = "whitened") -> None:
        self._factor, _, value = target.partition(":")
        if value not in FACTORS.get(self._factor, ()):
            known = ", ".join(f"{name}:{one}" for name, values in FACTORS.items() for one in values)
            raise UserError(f"photographs know no {target!r}; choose of {known}")
        self._value = FACTORS[self._factor].index(value)
        self._name: ClassifierName = classifier
        self._judges: dict[str, PhotoJudge] = {}

    def __call__(self, images: Tensor) -> Tensor:
        """The chance for each of images [N, 3, 32, 32] in [-1, 1]."""
        device = str(images.device)
        if device not in self._judges:
            self._judges[device] = PhotoJudge(self._name, device)
        return self._judges[device].read(images)[self._factor][:, self._value]


class PhotoFeatures(nn.Module):
    """The last hidden layer of a classifier, for Fréchet distances.

    Args:
        classifier: which of the two.
    """

    def __init__(self, classifier: ClassifierName = "whitened") -> None:
        super().__init__()
        body = load_classifier(classifier).body
        assert isinstance(body, nn.Sequential)
        self.body = body[:-1]
        last = body[-1]
        assert isinstance(last, nn.Linear)
        self.num_features = last.in_features

    @torch.no_grad()
    def forward(self, images_N3HW: Tensor) -> Tensor:
        """Features of images [N, 3, 32, 32] in [0, 1]."""
        features: Tensor = self.body((2 * images_N3HW - 1).contiguous(memory_format=torch.channels_last))
        return features
