"""Randomness by counters: every draw is named by a key, so nothing depends on what was drawn before."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from tide_lightning.errors import UserError


def stream(seed: int, *key: int | str) -> np.random.Generator:
    """The random stream that belongs to a key; the same on every machine, rank and restart."""
    if seed < 0:
        raise UserError(f"seed {seed}: take 0 or more")
    words = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in key]
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=words))


def normal(rng: np.random.Generator, shape: tuple[int, ...]) -> Tensor:
    """Standard normal float32 numbers."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


def normals(seed: int, *key: int | str, numbers: Iterable[int], shape: tuple[int, ...]) -> Tensor:
    """One draw for each number [N, *shape], from the stream of the key and that number."""
    return torch.stack([normal(stream(seed, *key, number), shape) for number in numbers])


def torch_generator(seed: int, *key: int | str) -> torch.Generator:
    """A torch generator that belongs to a key, for code that takes nothing else."""
    return torch.Generator().manual_seed(int(stream(seed, *key).integers(2**63)))
