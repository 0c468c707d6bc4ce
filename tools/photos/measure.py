"""`python -m tools.photos.measure denoiser`, then `… judges`: how good they are, as numbers and a picture.

The denoiser's error is that of v on test images at times spread evenly; its samples, as many of each class, make a
picture. Judges are measured on test images, and say which classes they see in that picture.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from tide_lightning.diffusion import sample_images
from tide_lightning.errors import UserError
from tide_lightning.grounds.photos.classes import CLASSES
from tide_lightning.grounds.photos.classifiers import CLASSIFIERS, ClassifierName, guesses, load_classifier
from tide_lightning.grounds.photos.denoiser import SHIPPED, PhotoDiT, build_scheduler
from tide_lightning.grounds.photos.sources import Photographs, read_photographs, read_tiles
from tools.command import run
from tools.photos.pacing import any_device

BATCH = 40
FIGURES = "photos-quality.json"
PICTURE = "photos-samples.png"


def denoiser(
    photographs: str | None = None,
    pretrained: str = SHIPPED,
    out: Path = Path("docs/results/summaries"),
    device: str | None = None,
    dtype: Literal["float32", "bfloat16"] = "float32",
    num_images: int = 1000,
    samples_a_class: int = 16,
    num_inference_steps: int = 50,
    guidance_scale: float = 3.0,
) -> None:
    """Measure the denoiser's error and sample from it.

    Args:
        photographs: their source; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        pretrained: folder of the denoiser.
        out: where figures and picture go.
        device: a GPU unless given, where there is one.
        dtype: precision of the denoiser.
        num_images: test images.
        samples_a_class: columns of the picture.
        num_inference_steps: of a sample.
        guidance_scale: of samples.
    """
    place = any_device(device)
    measured = PhotoDiT(pretrained, dtype=getattr(torch, dtype))
    measured.to(place)
    test = Photographs(*(part.to(place) for part in read_photographs("test", photographs, num_images)))
    settings = {"num": samples_a_class * len(CLASSES), "steps": num_inference_steps, "guidance_scale": guidance_scale}
    figures = {"v_error": v_error(measured, test), "images": len(test.images), "dtype": dtype, "samples": settings}
    prompts = [name for name in CLASSES for _ in range(samples_a_class)]
    images = sampled(measured, prompts, num_inference_steps, guidance_scale)
    out.mkdir(parents=True, exist_ok=True)
    tiles = images.unflatten(0, (len(CLASSES), samples_a_class)).permute(0, 3, 1, 4, 2).flatten(0, 1).flatten(1, 2)
    pixels = tiles.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)
    Image.fromarray(np.asarray(pixels.cpu())).save(out / PICTURE)
    _add(out, "denoiser", figures)


def judges(
    photographs: str | None = None,
    folder: Path | None = None,
    out: Path = Path("docs/results/summaries"),
    device: str | None = None,
    num_images: int = 0,
) -> None:
    """Measure the judges on test images and let them judge the denoiser's samples.

    Args:
        photographs: their source; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        folder: of the judges; the repository's unless given.
        out: where figures go, and the samples' picture is.
        device: a GPU unless given, where there is one.
        num_images: test images; 0 for all.
    """
    place = any_device(device)
    if not (out / PICTURE).exists():
        raise UserError(f"{out / PICTURE}: no samples there; `python -m tools.photos.measure denoiser` makes them")
    samples = read_tiles(out / PICTURE).to(place)
    wanted = torch.arange(len(CLASSES), device=place).repeat_interleave(len(samples) // len(CLASSES))
    test = Photographs(*(part.to(place) for part in read_photographs("test", photographs, num_images)))
    networks = {name: load_classifier(name, folder).to(place) for name in CLASSIFIERS}
    on_test = {name: guesses(network, test.images) for name, network in networks.items()}
    on_samples = {name: guesses(network, samples) for name, network in networks.items()}
    _add(out, "judges", {"images": len(test.images), **_compared(on_test, test.classes)})
    _add(out, "samples", {"images": len(samples), **_compared(on_samples, wanted)})


@torch.no_grad()
def v_error(measured: PhotoDiT, photographs: Photographs) -> float:
    """Mean squared error of v on images, told their class, at times spread evenly."""
    images, classes = photographs.images.float() / 127.5 - 1, photographs.classes
    alphas = build_scheduler().alphas_cumprod.to(images.device)
    timesteps = torch.arange(len(images), device=images.device) * len(alphas) // len(images)
    noise = measured.noise(0, "measure", numbers=range(len(images))).to(images.device)
    total = 0.0
    for part in track(torch.arange(len(images)).split(BATCH), "error of v", transient=True):
        signal = alphas[timesteps[part]].sqrt().view(-1, 1, 1, 1)
        level = (1 - signal.square()).sqrt()
        told = measured.encode_prompts([CLASSES[number] for number in classes[part].tolist()])
        x_t = signal * images[part] + level * noise[part]
        v = measured.predict(x_t, timesteps[part].float(), told)
        total += float((v - signal * noise[part] + level * images[part]).double().square().mean((1, 2, 3)).sum())
    return round(total / len(images), 5)


@torch.no_grad()
def sampled(measured: PhotoDiT, prompts: list[str], num_inference_steps: int, guidance_scale: float) -> Tensor:
    """Images in [-1, 1], each from noise of its own."""
    noise = measured.noise(0, "measure", "samples", numbers=range(len(prompts)))
    parts = []
    for start in track(range(0, len(prompts), BATCH), "samples", transient=True):
        some = slice(start, start + BATCH)
        settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
        parts.append(sample_images(measured, prompts[some], initial_noise=noise[some], **settings))
    return torch.cat(parts)


def _compared(said: Mapping[ClassifierName, Tensor], right: Tensor) -> dict[str, float]:
    """How often each is right, both say the same, and both are right where one of them is."""
    first, second = said.values()
    both, either = (first == right) & (second == right), (first == right) | (second == right)
    return {name: _share(guess == right) for name, guess in said.items()} | {
        "agree": _share(first == second),
        "both_right": _share(both),
        "both_right_of_either": _share(both[either]),
    }


def _share(true: Tensor) -> float:
    return round(float(true.double().mean()), 4)


def _add(out: Path, key: str, figures: Mapping[str, Any]) -> None:
    path = out / FIGURES
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(known | {key: figures}, indent=1) + "\n")
    print(f"{path}: {key} {json.dumps(figures)}")


if __name__ == "__main__":
    run([denoiser, judges])
