"""What is computed once and read many times in training: renders, latents, tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tide_lightning.toybox.captions import caption_scenes
from tide_lightning.toybox.renderer import render
from tide_lightning.toybox.text import tokenize
from tide_lightning.toybox.world import Split, draw_scenes

_PIECE: Final = 512
_T = TypeVar("_T")


class LatentCache(NamedTuple):
    """What the transformer trains on."""

    latents: Tensor  # [N, 4, 16, 16] float16, unscaled posterior means
    tokens: Tensor  # [N, V, L] uint8, V captions a scene


def cache_images(path: Path, num_scenes: int, *, split: Split = "train", seed: int = 0, device: str = "cpu") -> Tensor:
    """Renders of a split's first scenes as uint8 [N, 3, H, W], rendered unless the file has them."""
    if path.exists():
        images: Tensor = torch.load(path, mmap=True, weights_only=True)
        if len(images) >= num_scenes:
            return images[:num_scenes]
    pieces = []
    for index in torch.arange(num_scenes).split(_PIECE):
        image = render(index, split=split, seed=seed, device=device).image
        pieces.append(((image + 1) * 127.5).round().to(torch.uint8).cpu())
        if index[0] // _PIECE % 16 == 0:
            print(f"rendered {int(index[-1]) + 1} of {num_scenes} scenes", flush=True)
    return _write(torch.cat(pieces), path)


@torch.no_grad()
def cache_latents(
    path: Path,
    images: Tensor,
    vae: AutoencoderKL,
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_captions: int = 4,
    seed: int = 0,
    device: str = "cpu",
) -> LatentCache:
    """Latents of the renders and tokens of several captions a scene, computed unless the file has them."""
    if path.exists():
        latents, tokens = torch.load(path, weights_only=True)
        if len(latents) >= len(images):
            return LatentCache(latents[: len(images)], tokens[: len(images)])
    vae = vae.to(device)
    latents, tokens = [], []
    for index in torch.arange(len(images)).split(_PIECE):
        image = images[index].to(device).float() / 127.5 - 1
        with torch.autocast(device, torch.bfloat16):
            posterior = vae.encode(image).latent_dist
        latents.append(posterior.mode().half().cpu())
        labels, _ = draw_scenes("train", index, seed)
        variants = [
            caption_scenes(labels, index, split="train", seed=seed, variant=variant) for variant in range(num_captions)
        ]
        tokens.append(torch.stack([tokenize(tokenizer, c) for c in variants], 1).to(torch.uint8))
        if index[0] // _PIECE % 16 == 0:
            print(f"encoded {int(index[-1]) + 1} of {len(images)} scenes", flush=True)
    cache = LatentCache(torch.cat(latents), torch.cat(tokens))
    _write(tuple(cache), path)
    return cache


def cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor in a file, computed and written where the file is missing."""
    if path.exists():
        tensor: Tensor = torch.load(path, weights_only=True)
        return tensor
    return _write(compute(), path)


def _write(value: _T, path: Path) -> _T:
    """Save under another name first: a killed run leaves no half file behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    torch.save(value, temporary)
    temporary.rename(path)
    return value
