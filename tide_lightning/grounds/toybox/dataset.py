"""Scenes as a dataset: images with prompts for training, labels and maps for whoever asks."""

from typing import TypedDict

import torch
from torch import Tensor
from torch.utils.data import Dataset

from tide_lightning.grounds.toybox.captions import Mentions, caption_scenes, describe
from tide_lightning.grounds.toybox.factors import FACTORS, Labels
from tide_lightning.grounds.toybox.renderer import Rendered, render
from tide_lightning.grounds.toybox.world import SPLIT_START, Split, draw_scenes


class Scene(TypedDict):
    """An item of `Scenes`."""

    image: Tensor  # [3, 64, 64] in [-1, 1]
    prompt: str


class Scenes(Dataset[Scene]):
    """Renders with captions, made on the fly; item i is a function of (split, seed, i).

    Args:
        split: "train", "validation" or "test"; only "test" shows the held-out (shape, colour) pairs.
        num_scenes: Length.
        seed: Seed 0 of "train" is what the shipped pipeline was trained on.
    """

    def __init__(self, split: Split = "train", num_scenes: int = 10_000, seed: int = 0) -> None:
        if split not in SPLIT_START:
            raise ValueError(f"there is no split {split!r}: take one of {', '.join(SPLIT_START)}")
        self.split: Split = split
        self.num_scenes = num_scenes
        self.seed = seed

    def __len__(self) -> int:
        return self.num_scenes

    def __getitem__(self, index: int) -> Scene:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: list[int]) -> list[Scene]:
        """A batch at once: rendering is vectorised, so this is many times faster than one by one."""
        images = self.rendered(indices).image
        captions = self.prompts(indices)
        return [{"image": image, "prompt": prompt} for image, prompt in zip(images, captions, strict=True)]

    def rendered(self, indices: list[int] | Tensor) -> Rendered:
        """Images, depth, normals, masks and labels of some scenes."""
        return render(self._checked(indices), split=self.split, seed=self.seed)

    def labels(self, indices: list[int] | Tensor) -> Labels:
        """Labels alone, without rendering."""
        return draw_scenes(self.split, self._checked(indices), self.seed)[0]

    def factors(self, indices: list[int] | Tensor) -> list[dict[str, list[str]]]:
        """The values that each scene shows of every factor, by name; a scene of two objects may show two."""
        columns = [label.tolist() for label in self.labels(indices)]
        return [_values_shown(describe([column[row] for column in columns])) for row in range(len(indices))]

    def prompts(self, indices: list[int] | Tensor, variant: int = 0) -> list[str]:
        """Captions alone; another variant is another caption of the same scene."""
        index = self._checked(indices)
        labels, _ = draw_scenes(self.split, index, self.seed)
        return caption_scenes(labels, index, split=self.split, seed=self.seed, variant=variant)

    def _checked(self, indices: list[int] | Tensor) -> Tensor:
        index = torch.as_tensor(indices)
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < self.num_scenes:
            # IndexError also ends a plain `for scene in scenes`.
            raise IndexError(f"scene out of range: there are {self.num_scenes}")
        return index


def _values_shown(mentions: Mentions) -> dict[str, list[str]]:
    said = (*mentions.objects, mentions.scene)
    return {name: sorted({each[name] for each in said if name in each}) for name in FACTORS}
