"""Prompt embeddings on disk, so that text encoders, often larger than the denoiser, need not be loaded again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.errors import UserError
from tide_lightning.files import whole_file

_EXTRA = "extra."


class StoredPrompts:
    """A folder with a safetensors file for each prompt; what is missing is encoded and added. Pipelines may share it.

    `key` is what else an embedding depends on: pipeline, revision, precision.
    """

    def __init__(self, folder: Path, key: Sequence[str | None], encode: Callable[[str], Conditioning]) -> None:
        self._folder = folder
        self._key = list(key)
        self._encode = encode

    def __call__(self, prompt: str) -> Conditioning:
        """The prompt's conditioning, on the CPU where it comes from the folder."""
        name = hashlib.sha256(json.dumps([*self._key, prompt]).encode()).hexdigest()[:32]
        path = self._folder / f"{name}.safetensors"
        if path.is_file():
            return _read(path)
        conditioning = self._encode(prompt)
        _write(path, conditioning)
        return conditioning


def _read(path: Path) -> Conditioning:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(path)
        tokens = tensors.pop("tokens")
    except (SafetensorError, OSError, KeyError) as error:
        raise UserError(f"prompt embedding {path} is damaged ({error}): delete it, and it is made again") from None
    mask = tensors.pop("mask", None)
    return Conditioning(tokens, mask, {name.removeprefix(_EXTRA): value for name, value in tensors.items()})


def _write(path: Path, conditioning: Conditioning) -> None:
    from safetensors.torch import save_file

    tensors: dict[str, Tensor] = {_EXTRA + name: value for name, value in conditioning.extra.items()}
    tensors["tokens"] = conditioning.tokens
    if conditioning.mask is not None:
        tensors["mask"] = conditioning.mask
    with whole_file(path, shared=True) as part:  # by ranks
        save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, part)
