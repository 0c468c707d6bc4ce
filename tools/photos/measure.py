"""`python -m tools.photos.measure`: how good the photographs' judges and denoiser are, as numbers and a picture.

Judges are measured on all test images. The denoiser's error is that of v on test images, at times spread evenly; its
samples are of each class alike, and both judges say which class they see.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from tide_lightning.diffusion import sample
from tide_lightning.diffusion.counters import normals
from tide_lightning.grounds.photos.classes import CLASSES
from tide_lightning.grounds.photos.classifiers import CLASSIFIERS, ClassifierName, guesses, load_classifier
from tide_lightning.grounds.photos.denoiser import SHIPPED, PhotoDiT, build_scheduler
from tide_lightning.grounds.photos.sources import Photographs, read_photographs
from tools.photos.pacing import any_device, run

BATCH = 50
PICTURED = 16
"""Samples of each class in the picture."""


def measure(
    photographs: str | None = None,
    pretrained: str = SHIPPED,
    judges: Path | None = None,
    out: Path = Path("docs"),
    device: str | None = None,
    num_images: int = 0,
    num_samples: int = 200,
    num_inference_steps: int = 50,
    guidance_scale: float = 3.0,
) -> None:
    """Write photos-quality.json and photos-samples.png.

    Args:
        photographs: their source; unless given $TIDE_PHOTOS, or ../shared/cifar10.
        pretrained: folder of the denoiser.
        judges: folder of the judges; the repository's unless given.
        out: where figures and picture go.
        device: a GPU unless given, where there is one.
        num_images: test images; 0 for all.
        num_samples: images sampled, as many of each class.
        num_inference_steps: of a sample.
        guidance_scale: of samples.
    """
    place = any_device(device)
    test = Photographs(*(part.to(place) for part in read_photographs("test", photographs, num_images)))
    networks = {name: load_classifier(name, judges).to(place) for name in CLASSIFIERS}
    said = {name: guesses(network, test.images) for name, network in networks.items()}
    denoiser = PhotoDiT(pretrained).to(place)
    assert isinstance(denoiser, PhotoDiT)
    classes = [CLASSES[number % len(CLASSES)] for number in range(num_samples)]
    samples = sampled(denoiser, classes, num_inference_steps, guidance_scale)
    wanted = torch.arange(num_samples, device=place) % len(CLASSES)
    seen = {name: guesses(network, samples) for name, network in networks.items()}
    figures: dict[str, Any] = {
        "judges": {name: _share(guess == test.classes) for name, guess in said.items()} | agreement(said, test.classes),
        "denoiser": {"v_error": v_error(denoiser, test)},
        "samples": {name: _share(guess == wanted) for name, guess in seen.items()}
        | agreement(seen, wanted)
        | {"num": num_samples, "steps": num_inference_steps, "guidance_scale": guidance_scale},
    }
    out.mkdir(parents=True, exist_ok=True)
    (out / "photos-quality.json").write_text(json.dumps(figures, indent=1) + "\n")
    picture(samples).save(out / "photos-samples.png")
    print(json.dumps(figures, indent=1))


def agreement(said: Mapping[ClassifierName, Tensor], right: Tensor) -> dict[str, float]:
    """How often both judges say the same, and how often both are right where one of them is."""
    first, second = said.values()
    correct = [guess == right for guess in (first, second)]
    both, either = correct[0] & correct[1], correct[0] | correct[1]
    return {"agree": _share(first == second), "both_right": _share(both), "both_right_of_either": _share(both[either])}


@torch.no_grad()
def v_error(denoiser: PhotoDiT, photographs: Photographs, most: int = 1000) -> float:
    """Mean squared error of v on the first images, told their class, at times spread evenly."""
    images, classes = photographs.images[:most].float() / 127.5 - 1, photographs.classes[:most]
    alphas = build_scheduler().alphas_cumprod.to(images.device)
    timesteps = torch.arange(len(images), device=images.device) * len(alphas) // len(images)
    noise = normals(0, "measure", numbers=range(len(images)), shape=denoiser.latent_shape).to(images.device)
    total = 0.0
    for part in track(torch.arange(len(images)).split(BATCH), "error of v", transient=True):
        signal = alphas[timesteps[part]].sqrt().view(-1, 1, 1, 1)
        level = (1 - signal.square()).sqrt()
        told = denoiser.encode_prompts([CLASSES[number] for number in classes[part].tolist()])
        x_t = signal * images[part] + level * noise[part]
        v = denoiser.predict(x_t, timesteps[part].float(), told)
        total += float((v - signal * noise[part] + level * images[part]).double().square().mean((1, 2, 3)).sum())
    return round(total / len(images), 5)


@torch.no_grad()
def sampled(denoiser: PhotoDiT, prompts: list[str], num_inference_steps: int, guidance_scale: float) -> Tensor:
    """Images in [-1, 1], each from noise of its own."""
    noise = normals(0, "measure", "samples", numbers=range(len(prompts)), shape=denoiser.latent_shape)
    parts = []
    for start in track(range(0, len(prompts), BATCH), "samples", transient=True):
        some = slice(start, start + BATCH)
        latents = sample(
            denoiser,
            prompts[some],
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            initial_noise=noise[some],
        )
        parts.append(denoiser.decode_latents(latents))
    return torch.cat(parts)


def picture(samples: Tensor, scale: int = 2) -> Image.Image:
    """A row a class; samples come with the classes in turn."""
    columns = min(PICTURED, len(samples) // len(CLASSES))
    rows = samples[: columns * len(CLASSES)].unflatten(0, (columns, len(CLASSES))).transpose(0, 1)
    pixels = rows.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 3, 1, 4, 2).flatten(0, 1)
    large = pixels.flatten(1, 2).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    return Image.fromarray(np.asarray(large.cpu()))


def _share(true: Tensor) -> float:
    return round(float(true.double().mean()), 4)


if __name__ == "__main__":
    run(measure)
