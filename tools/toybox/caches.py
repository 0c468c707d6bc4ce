"""What is computed once and read many times in training: renders, latents, tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from transformers import PreTrainedTokenizerFast, T5EncoderModel

from tide_lightning.files import whole_file
from tide_lightning.grounds.toybox.captions import caption_scenes
from tide_lightning.grounds.toybox.renderer import render
from tide_lightning.grounds.toybox.world import Split, draw_scenes
from tools.toybox.text import tokenize

_PIECE: Final = 512
_T = TypeVar("_T")


class LatentCache(NamedTuple):
    """What the transformer trains on: N scenes, V captions a scene, U captions in all, L tokens."""

    latents_NCHW: Tensor  # float16, unscaled posterior means
    captions_NV: Tensor  # which of the U captions; 0 is the empty prompt
    text_ULD: Tensor  # bfloat16, what the frozen text encoder makes of each caption
    lengths_U: Tensor  # tokens that are no padding


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
def encode_images(images: Tensor, vae: AutoencoderKL) -> Tensor:
    """Posterior means of renders, float16, unscaled."""
    latents = []
    for piece in images.split(_PIECE):
        with torch.autocast(vae.device.type, torch.bfloat16):
            posterior = vae.encode(piece.to(vae.device).float() / 127.5 - 1).latent_dist
        latents.append(posterior.mode().half().cpu())
    return torch.cat(latents)


@torch.no_grad()
def encode_captions(
    num_scenes: int,
    text_encoder: T5EncoderModel,
    tokenizer: PreTrainedTokenizerFast,
    *,
    num_captions: int = 4,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Captions of the first training scenes: which one, what the encoder makes of each, and their lengths."""
    number: dict[str, int] = {"": 0}
    rows = []
    for index in torch.arange(num_scenes).split(_PIECE):
        labels, _ = draw_scenes("train", index, seed)
        variants = [
            caption_scenes(labels, index, split="train", seed=seed, variant=variant) for variant in range(num_captions)
        ]
        rows += [[number.setdefault(c, len(number)) for c in scene] for scene in zip(*variants, strict=True)]
    ids_UL = tokenize(tokenizer, list(number))
    text = []
    for ids in ids_UL.split(_PIECE):
        ids = ids.to(text_encoder.device)
        with torch.autocast(ids.device.type, torch.bfloat16):
            hidden = text_encoder(ids, attention_mask=(ids != 0).long()).last_hidden_state
        text.append(hidden.bfloat16().cpu())
    return torch.tensor(rows), torch.cat(text), (ids_UL != 0).sum(1)


def cached(path: Path, compute: Callable[[], Tensor]) -> Tensor:
    """The tensor in a file, computed and written where the file is missing."""
    if path.exists():
        tensor: Tensor = torch.load(path, weights_only=True)
        return tensor
    return _write(compute(), path)


def _write(value: _T, path: Path) -> _T:
    with whole_file(path) as part:
        torch.save(value, part)
    return value
