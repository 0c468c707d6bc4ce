"""Latents: their size, their image tokens, and the images that they stand for."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from einops import rearrange
from torch import Tensor

from tide_lightning.diffusion import autoencoder, grid
from tide_lightning.diffusion.counters import normals
from tide_lightning.diffusion.denoiser.module import HoldsModule
from tide_lightning.diffusion.grid import Grid
from tide_lightning.errors import UserError


class HasLatents(HoldsModule):
    """A denoiser's latents [N, *latent_shape], cut into T tokens with patches of P numbers."""

    _latent_size: Grid | None

    @property
    def default_latent_size(self) -> Grid:
        """Rows and columns of a latent that the model was made for."""
        side = self.config.sample_size
        return (side, side) if isinstance(side, int) else tuple(side)

    @property
    def num_channels(self) -> int:
        """Channels of a latent."""
        return int(self.config.in_channels)

    @property
    def patch_shape(self) -> Grid:
        """Latent pixels that make an image token, along each axis."""
        return (int(self.config.patch_size),) * 2

    @property
    def latent_shape(self) -> tuple[int, ...]:
        """One latent: channels, then its size."""
        return self.num_channels, *(self._latent_size or self.default_latent_size)

    @property
    def grid(self) -> Grid:
        """Rows and columns of image tokens (a video's frames before them)."""
        return tuple(size // side for size, side in zip(self.latent_shape[1:], self.patch_shape, strict=True))

    @property
    def num_tokens(self) -> int:
        """Image tokens of one sample."""
        return math.prod(self.grid)

    def noise(self, seed: int, *key: int | str, numbers: Iterable[int]) -> Tensor:
        """Latents of pure noise, one for each number; what trajectories start from."""
        return normals(seed, *key, numbers=numbers, shape=self.latent_shape)

    def patches(self, latents: Tensor) -> Tensor:
        """Each token's latent patch [N, T, P]."""
        return grid.patches(latents, self.grid)

    def positions(self) -> Tensor:
        """Row and column of each token [T, 2]."""
        return grid.positions(self.grid)

    @property
    def vae(self) -> Any:
        """What encodes images and decodes latents; None where latents are pixels."""
        return self.pipeline.vae

    @property
    def image_shape(self) -> tuple[int, ...]:
        """What `encode_images` takes: channels, rows, columns (a video's frames after the channels)."""
        if self.vae is None:
            return self.latent_shape
        factor = autoencoder.spatial_factor(self.vae)
        return 3, *(side * factor for side in self.latent_shape[1:])

    def encode_images(self, images: Tensor) -> Tensor:
        """Latents of images [N, *image_shape] in [-1, 1], each encoded by itself."""
        if tuple(images.shape[1:]) != self.image_shape:
            raise UserError(f"images must be {list(self.image_shape)} for this denoiser, not {list(images.shape[1:])}")
        return images.to(self.device).float() if self.vae is None else autoencoder.encode(self.vae, images)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1]; without a VAE a latent's first three channels, frames side by side."""
        latents = latents.to(self.device)
        if self.vae is not None:
            return autoencoder.decode(self.vae, latents)
        shown = latents[:, :3].clamp(-1, 1)
        return rearrange(shown, "n c f h w -> n c h (f w)") if shown.ndim == 5 else shown

    def check_size(self) -> None:
        """Refuse a latent that is not cut into whole patches."""
        size, patch = self.latent_shape[1:], self.patch_shape
        if len(size) != len(patch) or any(side < 1 or side % part for side, part in zip(size, patch, strict=True)):
            raise UserError(
                f"latent_size {list(size)}: this denoiser needs {len(patch)} numbers, multiples of {list(patch)}"
            )
