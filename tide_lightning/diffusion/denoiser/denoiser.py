"""The frozen denoiser as everything above sees it, whatever the family."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from tide_lightning.diffusion import autoencoder, grid, hooks
from tide_lightning.diffusion.conditioning import Conditioning, PromptCache, unknown_words
from tide_lightning.diffusion.grid import Grid
from tide_lightning.diffusion.layouts import Found, Layout, find_sites
from tide_lightning.diffusion.schedule import Schedule, schedule_of
from tide_lightning.diffusion.sites import Site, resolve_sites
from tide_lightning.errors import UserError
from tide_lightning.tokens import SiteShape

_log = logging.getLogger(__name__)

Guidance = Literal["classifier_free", "embedded", "none"]
Around = Callable[[Tensor, Tensor, Conditioning], AbstractContextManager[None]]
"""Made of x_t, raw_t and conditioning, entered for the forward on them."""


class Denoiser(ABC):
    """A frozen diffusion transformer with its schedule, its VAE and its prompts.

    A family says how its transformer is called and conditioned; the rest is common. Shapes: N samples, latents
    [N, *latent_shape], T tokens of width d, patches of P numbers.

    Args:
        module: the transformer. It is frozen here.
        scheduler: the pipeline's scheduler; copies of it drive trajectories.
        pipeline: the diffusers pipeline that owns VAE and text encoders; None where only shapes are wanted.
        latent_size: rows and columns of a latent (a video's frames before them); the model's own unless given.
    """

    # What a family declares; these are what most of them agree on.

    component: str = "transformer"
    """The pipeline's part that is the denoiser."""

    streams: tuple[str, ...] = ("image",)
    """The token streams that its blocks carry."""

    blocks: str = "transformer_blocks"
    """The list of its blocks, or the last of several."""

    text_first: bool = True
    """The order of streams that stand one after another in one tensor."""

    def __init__(
        self, module: nn.Module, scheduler: Any, pipeline: Any = None, latent_size: Sequence[int] | None = None
    ) -> None:
        self.module = module.eval().requires_grad_(False)
        self.scheduler = scheduler
        self.schedule: Schedule = schedule_of(scheduler, self.timestep_divisor)
        self.pipeline = pipeline
        self._latent_size = None if latent_size is None else tuple(latent_size)
        self.encode_prompts_by(self.encode_prompt)
        self._found: dict[Site, Found] = {}
        self._around: Around = lambda x_t, raw_t, conditioning: nullcontext()
        _check_size(self)

    @property
    def config(self) -> Any:
        """The transformer's configuration."""
        return self.module.config

    @property
    def timestep_divisor(self) -> float:
        """The denoiser is given the scheduler's timestep divided by this."""
        return 1.0

    @property
    def guidance(self) -> Guidance:
        """Two halves (classifier_free), a number that the transformer is told (embedded), or none."""
        return "classifier_free"

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
    @abstractmethod
    def prompt_shape(self) -> tuple[int, int]:
        """Most tokens of a prompt and the width of their embeddings."""

    @abstractmethod
    def encode_prompt(self, prompt: str) -> Conditioning:
        """One prompt's conditioning, without a cache; of "" the unconditional one."""

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """Conditioning of no meaning around prompt embeddings [N, L, C], to find out shapes."""
        return Conditioning(tokens)

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the transformer's forward is called with; by the names that most have in diffusers."""
        named = {"hidden_states": x_t, "timestep": raw_t, "encoder_hidden_states": conditioning.tokens}
        masked = {} if conditioning.mask is None else {"encoder_attention_mask": conditioning.mask}
        return {**named, **masked, **conditioning.extra}

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the transformer; the prediction in latent shape, learned-sigma channels dropped."""
        output: Tensor = self.module(**self.arguments(x_t, raw_t, conditioning), return_dict=False)[0]
        return output[:, : self.num_channels]

    def given(self, arguments: Mapping[str, Any]) -> tuple[Tensor, Tensor, Conditioning]:
        """The inverse of `arguments`, for calls that others make: x_t, raw_t [N] and the prompts' embeddings."""
        x_t: Tensor = next(iter(arguments.values()))
        raw_t = torch.as_tensor(arguments["timestep"], dtype=torch.float32, device=x_t.device).expand(len(x_t))
        tokens = arguments.get("encoder_hidden_states")
        return x_t, raw_t, Conditioning(x_t.new_zeros(len(x_t), 0, 0) if tokens is None else tokens)

    def scheduler_arguments(self, num_inference_steps: int) -> dict[str, Any]:
        """What the pipeline's own call sets its scheduler's timesteps with."""
        arguments: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        if self.scheduler.config.get("use_dynamic_shifting"):
            arguments["mu"] = _dynamic_shift(self.scheduler.config, self.num_tokens)
        return arguments

    def entry_modulation(self, block: int | None, raw_t: Tensor) -> tuple[Tensor, Tensor] | None:
        """Shift and scale [G, d] that a block applies to its tokens' LayerNorm at timesteps [G]; None where unknown.

        Args:
            block: number of the block; None for the output layer.
            raw_t: timesteps as the transformer is given them.
        """
        return None

    # What all families share: the module.

    @property
    def device(self) -> torch.device:
        """Where the transformer is."""
        return next(self.module.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the transformer's forward; diffusers' models tell it apart from parts kept in float32."""
        told = getattr(self.module, "dtype", None)
        return told if isinstance(told, torch.dtype) else next(self.module.parameters()).dtype

    def zeros(self, *shape: int) -> Tensor:
        """Zeros where and as the transformer computes."""
        return torch.zeros(shape, dtype=self.dtype, device=self.device)

    def fingerprint(self) -> str:
        """Tells these weights from others, whatever precision they are held in: a hash of a part of each."""
        digest = hashlib.sha256()
        for name, parameter in self.module.state_dict().items():
            some = parameter.detach().flatten()[:256].to(torch.bfloat16).view(torch.int16).cpu()
            digest.update(name.encode() + some.numpy().tobytes())
        return digest.hexdigest()[:16]

    def to(self, device: torch.device | str) -> Denoiser:
        """Move every part, in place."""
        if torch.device(device) != self.device:
            self._prompts.clear()
        self.module.to(device)
        for part in self.pipeline.components.values() if self.pipeline is not None else [self.vae]:
            if isinstance(part, nn.Module):
                part.to(device)
        return self

    def predict(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction for x_t at raw_t [N], float32, in its own precision whatever autocast says."""
        no_autocast = torch.autocast(x_t.device.type, enabled=False)
        with hooks.one_at_a_time, no_autocast, self._around(x_t, raw_t, conditioning):
            return self.forward(x_t.to(self.dtype), raw_t, conditioning).float()

    def within(self, around: Around) -> Self:
        """The same denoiser, sharing all of its parts, whose every prediction is made inside one more context."""

        @contextmanager
        def nested(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
            with self._around(x_t, raw_t, conditioning), around(x_t, raw_t, conditioning):
                yield

        twin = copy.copy(self)
        twin._around = nested
        return twin

    @torch.no_grad()
    def adaln(self, site: Site | str, num_times: int = 64) -> tuple[Tensor, Tensor, Tensor] | None:
        """What the denoiser's own adaptive norm applies where the tokens of `site` are read next.

        Returns:
            Times t [G], scale [G, d] and shift [G, d], acting as LayerNorm(x) * (1 + scale) + shift; None where it does
            not fit the site.
        """
        site = Site.parse(site) if isinstance(site, str) else site
        block = re.fullmatch(rf"{self.blocks}\.(\d+)", site.path)
        if site.part != "output" or site.stream != "image" or not (block or site.path == "pos_embed"):
            return None
        following = int(block[1]) + 1 if block else 0
        is_block = following < len(list(self.module.get_submodule(self.blocks).children()))
        t = torch.linspace(0, 1, num_times, device=self.device)
        applied = self.entry_modulation(following if is_block else None, self.schedule.raw_t(t))
        if applied is None:
            return None
        shift, scale = applied
        return t.cpu(), scale.float().cpu(), shift.float().cpu()

    # Prompts, images, time.

    @torch.no_grad()
    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of the prompts, one row each, on the denoiser's device; "" is the unconditional one."""
        conditioning = self._prompts(prompts)
        length = conditioning.tokens.shape[1]
        for site, (_, layout, _) in self._found.items():
            if layout.stream == "text" and layout.grid != (length,):
                raise UserError(
                    f"site {site} is to have {layout.grid[0]} text tokens, but this pipeline's prompts have {length}:"
                    " is a text encoder missing?"
                )
        return conditioning

    def encode_prompts_by(self, encode: Callable[[str], Conditioning]) -> None:
        """Have prompts encoded in another way than by the pipeline at once."""

        def encode_here(prompt: str) -> Conditioning:
            tokenizer = getattr(self.pipeline, "tokenizer", None)
            unknown = [] if tokenizer is None else unknown_words(tokenizer, prompt)
            if unknown:
                _log.warning("the tokenizer does not know %s in the prompt %r", ", ".join(unknown), prompt)
            return encode(prompt).to(self.device)

        self._prompts = PromptCache(encode_here)

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
        """Images [N, 3, H, W] in [-1, 1]; without a VAE a latent's first three channels."""
        latents = latents.to(self.device)
        return latents[:, :3].clamp(-1, 1) if self.vae is None else autoencoder.decode(self.vae, latents)

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """A copy of the pipeline's scheduler, set to the start of a trajectory."""
        scheduler = copy.deepcopy(self.scheduler)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' schedulers under numpy 2
            scheduler.set_timesteps(**self.scheduler_arguments(num_inference_steps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def raw_t(self, timestep: Tensor) -> Tensor:
        """What the denoiser is given at a scheduler's timestep."""
        return timestep.float() / self.timestep_divisor

    # The image's tokens.

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

    @property
    def patch_width(self) -> int:
        """Numbers in one patch."""
        return self.num_channels * math.prod(self.patch_shape)

    def patches(self, latents: Tensor) -> Tensor:
        """Each token's latent patch [N, T, P]."""
        return grid.patches(latents, self.grid)

    def positions(self) -> Tensor:
        """Row and column of each token [T, 2]."""
        return grid.positions(self.grid)

    def inputs(self, layout: Layout, x_t: Tensor, conditioning: Conditioning) -> Tensor:
        """What the denoiser is given at each place [N, T, p]: latent patches, or embeddings of the prompt."""
        if layout.stream == "text":
            return conditioning.tokens.float()
        return grid.patches(x_t, layout.grid)

    # Sites.

    def resolve_sites(self, patterns: Sequence[str]) -> list[Site]:
        """The sites that the patterns name."""
        return resolve_sites(self.module, patterns, self.streams)

    def layout(self, site: Site) -> Layout:
        """Where a site's tokens lie."""
        return self._find([site])[site].layout

    def site_widths(self, sites: Sequence[Site]) -> dict[str, int]:
        """The width d of each site, found by one forward; where it does not carry its stream's tokens, an error."""
        return {str(site): found.width for site, found in self._find(sites).items()}

    def site_shapes(self, sites: Sequence[Site]) -> dict[str, SiteShape]:
        """Each site's sizes."""
        shapes = {}
        for site, (_, layout, width) in self._find(sites).items():
            is_text = layout.stream == "text"
            d_input = self.prompt_shape[1] if is_text else math.prod(self.latent_shape) // layout.num_tokens
            shapes[str(site)] = SiteShape(width, layout.grid, d_input)
        return shapes

    def record(
        self,
        sites: Sequence[Site],
        *,
        stop_early: bool = False,
        select: Callable[[Site, Tensor], Tensor] | None = None,
    ) -> AbstractContextManager[dict[str, Tensor]]:
        """Fill a dictionary {site: [N, T, d]} during the prediction made inside; see `hooks.record`."""
        holdings = {site: found.holding for site, found in self._find(sites).items()}
        return hooks.record(self.module, sites, stop_early=stop_early, select=select, holdings=holdings)

    def splice(self, replacements: Mapping[Site, Callable[[Tensor], Tensor]]) -> AbstractContextManager[None]:
        """Replace each site's tokens [N, T, d] by `fn(tokens)` in the predictions made inside."""
        holdings = {site: found.holding for site, found in self._find(list(replacements)).items()}
        return hooks.splice(self.module, replacements, holdings)

    def _find(self, sites: Sequence[Site]) -> dict[Site, Found]:
        """Where each site's tokens are; those asked for first are looked for in one forward of a blank sample."""
        new = [site for site in sites if site not in self._found]
        if new:
            self._found |= find_sites(
                self.module, new, self.grid, self.prompt_shape[0], self.text_first, self._run_blank
            )
        return {site: self._found[site] for site in sites}

    @torch.no_grad()
    def _run_blank(self, num_text: int) -> None:
        """One forward of a sample without meaning, whose prompt has so many tokens."""
        tokens = self.zeros(1, num_text, self.prompt_shape[1])
        raw_t = torch.zeros(1, device=self.device)
        self.forward(self.zeros(1, *self.latent_shape), raw_t, self.blank_conditioning(tokens))


def _dynamic_shift(config: Any, num_tokens: int) -> float:
    """The mu of flow schedulers that shift timesteps by the number of image tokens: a line through two points."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (at_high - at_low) / (high - low)
    return float(num_tokens * slope + (at_low - slope * low))


def _check_size(denoiser: Denoiser) -> None:
    size, patch = denoiser.latent_shape[1:], denoiser.patch_shape
    if len(size) != len(patch) or any(side < 1 or side % part for side, part in zip(size, patch, strict=True)):
        raise UserError(
            f"latent_size {list(size)}: this denoiser needs {len(patch)} numbers, multiples of {list(patch)}"
        )
