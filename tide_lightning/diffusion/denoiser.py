"""The frozen denoiser as everything above sees it, whatever the family."""

from __future__ import annotations

import copy
import hashlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.diffusion import grid
from tide_lightning.diffusion.conditioning import Conditioning, PromptCache
from tide_lightning.diffusion.hooks import record
from tide_lightning.diffusion.schedule import Schedule, schedule_of
from tide_lightning.diffusion.sites import Site, resolve_sites
from tide_lightning.errors import UserError


class Denoiser(ABC):
    """A frozen diffusion transformer with its schedule, its VAE and its prompts.

    A family says how its transformer is called and conditioned; the rest is common. Shapes: N samples, latents
    [N, *latent_shape], T image tokens of width d, patches of P numbers.

    Args:
        module: the transformer. It is frozen here.
        scheduler: the pipeline's scheduler; copies of it drive trajectories.
        pipeline: the diffusers pipeline that owns VAE and text encoders; None where only shapes are wanted.
    """

    streams: tuple[str, ...] = ("image",)
    """The token streams that its blocks carry."""

    def __init__(self, module: nn.Module, scheduler: Any, pipeline: Any = None) -> None:
        self.module = module.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.schedule: Schedule = schedule_of(scheduler)
        self.pipeline = pipeline
        self._prompts = PromptCache(self.encode_prompt)

    # What a family declares.

    @property
    @abstractmethod
    def latent_shape(self) -> tuple[int, ...]:
        """One latent: channels, height, width."""

    @property
    @abstractmethod
    def patch_size(self) -> int:
        """Side of the square of latent pixels that makes an image token."""

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """One prompt's conditioning, without a cache."""

    @abstractmethod
    def blank_conditioning(self, num_samples: int) -> Conditioning:
        """Conditioning of the right shapes and no meaning, to find out shapes."""

    @abstractmethod
    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the transformer; the prediction in latent shape, learned-sigma channels dropped."""

    def adaln(self, site: Site | str, num_times: int = 64) -> tuple[Tensor, Tensor, Tensor] | None:
        """What the denoiser's own adaptive norm applies where the tokens of `site` are read next.

        Returns:
            Times t [G], scale [G, d] and shift [G, d], acting as LayerNorm(x) * (1 + scale) + shift; None where it does
            not fit the site.
        """
        return None

    # What all families share.

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer's forward."""
        return next(self.module.parameters()).dtype

    def fingerprint(self) -> str:
        """Tells these weights from others, whatever precision they are held in: a hash of a part of each."""
        digest = hashlib.sha256()
        for name, parameter in self.module.state_dict().items():
            some = parameter.detach().flatten()[:256].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(name.encode() + some.numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of image tokens."""
        _, height, width = self.latent_shape
        return height // self.patch_size, width // self.patch_size

    @property
    def num_tokens(self) -> int:
        """Image tokens of one sample."""
        rows, cols = self.grid
        return rows * cols

    @property
    def patch_width(self) -> int:
        """Numbers in one patch."""
        return int(self.latent_shape[0]) * self.patch_size**2

    def to(self, device: torch.device | str) -> Denoiser:
        """Move every part, in place."""
        if torch.device(device) != self.device:
            self._prompts.clear()
        self.module.to(device)
        for part in (self.pipeline.components if self.pipeline is not None else {}).values():
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def predict(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction for x_t at raw_t [N], float32, in its own precision whatever autocast says."""
        with torch.autocast(x_t.device.type, enabled=False):
            return self.forward(x_t.to(self.dtype), raw_t, conditioning).float()

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, one row each, on the denoiser's device; "" is the unconditional one."""
        return self._prompts(prompts)

    @torch.no_grad()
    def encode_images(self, images: Tensor) -> Tensor:
        """Latents of images [N, 3, H, W] in [-1, 1], each encoded by itself: the posterior's mode, scaled."""
        vae = self.pipeline.vae
        size = tuple(int(side) * self.pipeline.vae_scale_factor for side in self.latent_shape[1:])
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *size):
            raise UserError(f"images must be [3, {size[0]}, {size[1]}] for this denoiser, not {list(images.shape[1:])}")
        images = images.to(self.device, vae.dtype)
        with torch.autocast(self.device.type, enabled=False):
            latents = torch.cat([vae.encode(image[None]).latent_dist.mode() for image in images]).float()
        scaled: Tensor = (latents - (vae.config.get("shift_factor") or 0.0)) * vae.config.scaling_factor
        return scaled

    @torch.no_grad()
    def decode_latents(self, latents: Tensor) -> Tensor:
        """Images [N, 3, H, W] in [-1, 1]."""
        vae = self.pipeline.vae
        unscaled = latents.to(self.device) / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        with torch.autocast(self.device.type, enabled=False):
            images: Tensor = vae.decode(unscaled.to(vae.dtype), return_dict=False)[0]
        return images.float().clamp(-1, 1)

    def patches(self, latents: Tensor) -> Tensor:
        """Each token's latent patch [N, T, P]."""
        return grid.patches(latents, self.patch_size)

    def windows(self, latents: Tensor, radius: int) -> Tensor:
        """Each token's patch and its neighbours', (2 radius + 1)^2 of them [N, T, W * P], zero padded."""
        return grid.windows(latents, self.patch_size, radius)

    def positions(self) -> Tensor:
        """Row and column of each token [T, 2]."""
        return grid.positions(*self.grid)

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """A copy of the pipeline's scheduler, set to the start of a trajectory."""
        scheduler = copy.deepcopy(self.scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' schedulers under numpy 2
            scheduler.set_timesteps(num_inference_steps)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def resolve_sites(self, patterns: Sequence[str]) -> list[Site]:
        """The sites that the patterns name."""
        return resolve_sites(self.module, patterns, self.streams)

    @torch.no_grad()
    def site_widths(self, sites: Sequence[Site]) -> dict[str, int]:
        """The width d of each site, found by one forward; where it does not carry the image's tokens, an error."""
        device = self.device
        x_t = torch.zeros(1, *self.latent_shape, device=device, dtype=self.dtype)
        with record(self.module, sites, stop_early=True) as values:
            self.forward(x_t, torch.zeros(1, device=device), self.blank_conditioning(1))
        for site, value in values.items():
            if value.ndim != 3 or value.shape[1] != self.num_tokens:
                raise UserError(
                    f"site {site} gives {list(value.shape)}, not the {self.num_tokens} image tokens of one sample"
                )
        return {str(site): values[str(site)].shape[-1] for site in sites}
