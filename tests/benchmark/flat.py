"""The least that a ground can be: images of one colour, no parts, no maps, one factor that no prompt can ask for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from tests.diffusion.miniature import save_miniature
from tide_lightning.diffusion import Denoiser, load_denoiser
from tide_lightning.diffusion.counters import torch_generator
from tide_lightning.grounds import ABSENT, About, Cases, Factor, Judge, LabelledImages, Split

HUES = ("red", "green", "blue")


class Channels:
    """Reads a hue off the largest channel, and brightness off the mean."""

    def read(self, images: Tensor) -> dict[str, Tensor]:
        bright = torch.sigmoid(10 * images.mean((1, 2, 3)))
        return {"hue": images.mean((2, 3)).softmax(1), "brightness": torch.stack([1 - bright, bright], 1)}

    def checks(self, images: Tensor) -> dict[str, Tensor]:
        return {}


class Flat:
    """A colour an image; the prompt says which, and nothing of its brightness."""

    name = "flat"
    image_shape = (3, 16, 16)
    factors: Mapping[str, Factor] = {
        "hue": Factor(HUES, "class"),
        "brightness": Factor(("dark", "bright"), "layout"),
    }

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def denoiser(self) -> Denoiser:
        return load_denoiser(str(save_miniature(Path(self.folder))))

    def judges(self, device: str) -> tuple[Judge, ...]:
        return Channels(), Channels()

    def labelled(self, split: Split, count: int, seed: int, taken: frozenset[str] = frozenset()) -> LabelledImages:
        drawn = torch.rand(count, 2, generator=torch_generator(seed, split))
        hue, brightness = (drawn[:, 0] * 3).long(), (drawn[:, 1] * 2).long()
        images = torch.nn.functional.one_hot(hue, 3) * 0.8 - 0.6 + 0.4 * brightness.unsqueeze(1)
        return LabelledImages(
            images=images[:, :, None, None].expand(-1, -1, 16, 16).contiguous(),
            prompts=[f"a {HUES[number]} ball" for number in hue.tolist()],
            labels={"hue": hue.unsqueeze(1), "brightness": brightness.unsqueeze(1)},
        )

    def cases(self, factor: str, about: About, split: Split, count: int, seed: int) -> Cases:
        if factor == "brightness":
            return Cases(["a red ball"] * count, torch.full((count,), ABSENT))
        own = torch.arange(count) % 3 if about == "contrary" else torch.full((count,), ABSENT)
        prompts = [f"a {HUES[number]} ball" if about == "contrary" else "a ball" for number in own.tolist()]
        return Cases(prompts, own, [[f"a {hue} ball"] * count for hue in HUES])

    def mentioned(self, prompt: str) -> frozenset[str]:
        return frozenset({"hue"} if any(hue in prompt for hue in HUES) else {})
