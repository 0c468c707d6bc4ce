"""Any transformer of diffusers, called by the names of its forward's parameters.

Most of them share a vocabulary: what a parameter is called tells what it wants, and of the few ways to hand over
latents the first that the forward accepts is the right one. What no signature tells (how timesteps are scaled, a sign
of the prediction) a subclass declares, in a few lines.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from tide_lightning.diffusion import grid
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.grid import Grid
from tide_lightning.errors import UserError

_DEFAULT_SIDE, _DEFAULT_FRAMES = 32, 2
_LATENTS = ("hidden_states", "sample", "x")
_TIMESTEPS = ("timestep", "timesteps", "t")
_MASKS = ("encoder_attention_mask", "encoder_hidden_states_mask")
_PROMPT_WIDTHS = (
    "joint_attention_dim",
    "caption_channels",
    "text_embed_dim",
    "text_dim",
    "cross_attention_dim",
    "encoder_hidden_states_dim",
    "cap_feat_dim",
    "in_context_dim",
    "context_in_dim",
    "text_hidden_dim",
    "text_in_dim",
)


class Form(NamedTuple):
    """A way to hand over latents.

    Fields:
        name: for messages.
        is_video: whether there are frames.
        pack: latents [N, C, *space] to what the forward takes.
        unpack: what it returns, to latents again.
    """

    name: str
    is_video: bool
    pack: Callable[[Tensor, Grid], Tensor]
    unpack: Callable[[Tensor, Grid, tuple[int, ...]], Tensor]


FORMS = (
    Form("image", False, lambda x, _: x, lambda y, _, __: y),
    Form("packed image", False, grid.patches, grid.unpatch),
    Form("video", True, lambda x, _: x, lambda y, _, __: y),
    Form("frames first", True, lambda x, _: x.transpose(1, 2), lambda y, _, __: y.transpose(1, 2)),
    Form("packed video", True, grid.patches, grid.unpatch),
)


class GenericTransformer(Denoiser):
    """A transformer known by its forward's signature alone; a subclass declares what that does not tell."""

    streams = ("image", "text")
    max_prompt_tokens: int = 256
    _form: Form

    def __init__(
        self, module: Any, scheduler: Any, pipeline: Any = None, latent_size: Sequence[int] | None = None
    ) -> None:
        self._accepted = set(inspect.signature(module.forward).parameters)
        if next(module.parameters()).device.type == "meta":
            self._find_form(module, scheduler, latent_size)
        else:  # looked for where a forward costs nothing
            with torch.device("meta"):
                twin = type(module).from_config(module.config)
            self._form = type(self)(twin.to("meta"), scheduler, None, latent_size)._form
            super().__init__(module, scheduler, pipeline, latent_size)

    def _find_form(self, module: Any, scheduler: Any, latent_size: Sequence[int] | None) -> None:
        """The first form in which a blank forward's answer looks like latents."""
        complaints, filled = [], set[str]()
        for form in FORMS:
            self._form = form
            try:
                super().__init__(module, scheduler, None, latent_size)
                blank = self.blank_conditioning(self.zeros(1, *self.prompt_shape))
                given = self.zeros(1, *self.latent_shape), self.zeros(1), blank
                filled |= set(self.arguments(*given))
                with torch.no_grad():
                    answer = self.forward(*given)
                if answer.shape != given[0].shape:
                    raise ValueError(f"gives {list(answer.shape)} for {list(given[0].shape)}")
            except Exception as error:  # whatever a forward raises that was given the wrong shapes
                complaints.append(f"{form.name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}")
            else:
                return
        missing = [name for name in sorted(self._accepted - filled) if not name.endswith(("_kwargs", "return_dict"))]
        unfilled = f"; nothing is known for {', '.join(missing)}" if filled and missing else ""
        raise UserError(
            f"{type(module).__name__} takes latents in no way known here ({'; '.join(complaints)}){unfilled}: an "
            "adapter whose `arguments` hand over what it wants can call it, see docs/tutorials/your-dit.md"
        )

    @property
    def form(self) -> str:
        """How it takes latents."""
        return self._form.name

    @property
    def default_latent_size(self) -> Grid:
        """The config's sample size, or something small."""
        sides = [self.config.get(name) for name in ("sample_height", "sample_width")]
        size = self.config.get("sample_size")
        if None not in sides:
            space = tuple(sides)
        elif size is not None:
            space = (size, size) if isinstance(size, int) else tuple(size)[-2:]
        else:
            space = (_DEFAULT_SIDE,) * 2
        return (_DEFAULT_FRAMES * self._patch_frames, *space) if self._form.is_video else space

    @property
    def num_channels(self) -> int:
        """What the transformer takes; of packed latents a whole patch's."""
        return int(self.config.get("in_channels") or self.config.get("in_dim"))

    @property
    def patch_shape(self) -> Grid:
        """From the config; what is packed is one token each already."""
        if self._form.name.startswith("packed"):
            return (1,) * (3 if self._form.is_video else 2)
        size = self.config.get("patch_size")
        if isinstance(size, int):
            return (self._patch_frames, size, size) if self._form.is_video else (size, size)
        size = tuple(size or (1, 1))
        return (self._patch_frames, *size[-2:]) if self._form.is_video else size[-2:]

    @property
    def _patch_frames(self) -> int:
        size = self.config.get("patch_size")
        if isinstance(size, tuple | list) and len(size) == 3:
            return int(size[0])
        return int(self.config.get("patch_size_t") or 1)

    @property
    def prompt_shape(self) -> tuple[int, int]:
        """The config says how wide; how long, its pipeline."""
        widths = [self.config.get(name) for name in _PROMPT_WIDTHS]
        length = self.config.get("max_text_seq_length") or self.max_prompt_tokens
        return int(length), next((int(width) for width in widths if isinstance(width, int)), 0)

    def encode_prompt(self, prompt: str) -> Conditioning:
        """The first tensors of their kinds that the pipeline gives: embeddings, a mask, a pooled embedding."""
        wanted = inspect.signature(self.pipeline.encode_prompt).parameters
        known: dict[str, Any] = {
            "do_classifier_free_guidance": False,
            "device": self.device,
            "num_images_per_prompt": 1,
            "max_sequence_length": self.prompt_shape[0],
        }
        further = [name for name in wanted if wanted[name].default is inspect.Parameter.empty][1:]  # prompt_2 and so on
        arguments = {**dict.fromkeys(further), **known}
        given = self.pipeline.encode_prompt(prompt, **{name: arguments[name] for name in wanted if name in arguments})
        tensors = [item for item in given if isinstance(item, Tensor)]
        tokens = next(item for item in tensors if item.ndim == 3)
        flat = [item for item in tensors if item.ndim == 2 and len(item) == len(tokens)]
        masks = [item for item in flat if item.shape == tokens.shape[:2] and not item.is_floating_point()]
        pooled = [item.to(self.dtype) for item in flat if item.is_floating_point()]
        extra = {"pooled_projections": pooled[0]} if pooled and "pooled_projections" in self._accepted else {}
        return Conditioning(tokens.to(self.dtype), masks[0] if masks else None, extra)

    def blank_conditioning(self, tokens: Tensor) -> Conditioning:
        """All tokens count; with the further inputs that the signature asks for."""
        extra = {}
        if "pooled_projections" in self._accepted:
            extra["pooled_projections"] = self.zeros(len(tokens), self.config.get("pooled_projection_dim") or 1)
        return Conditioning(tokens, tokens.new_ones(tokens.shape[:2], dtype=torch.long), extra)

    def arguments(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> dict[str, Any]:
        """What the signature names and is known here."""
        num_samples, num_text = conditioning.tokens.shape[:2]
        places, num_axes = grid.positions(self.grid).to(x_t), len(self.config.get("axes_dims_rope") or (0, 0, 0))
        size = raw_t.new_tensor(self.latent_shape[-2:]).expand(num_samples, -1)
        known: dict[str, Any] = {
            **dict.fromkeys(_LATENTS, self._form.pack(x_t, self.grid)),
            **dict.fromkeys(_TIMESTEPS, raw_t),
            **dict.fromkeys(_MASKS, conditioning.mask),
            "encoder_hidden_states": conditioning.tokens,
            "img_ids": F.pad(places[:, -2:], (1, num_axes - 3)),  # what stands before rows and columns is an index
            "txt_ids": x_t.new_zeros(num_text, num_axes),
            "img_shapes": [[(1, *self.grid[-2:])]] * num_samples,
            "original_size": size,
            "target_size": size,
            "crop_coords": torch.zeros_like(size),
            "num_frames": self.grid[0],
            "height": self.grid[-2],
            "width": self.grid[-1],
            **conditioning.extra,
        }
        if self.config.get("guidance_embeds"):
            known.setdefault("guidance", torch.ones_like(raw_t))
        return {name: value for name, value in known.items() if name in self._accepted and value is not None}

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The prediction as latents."""
        output: Any = self.module(**self.arguments(x_t, raw_t, conditioning), return_dict=False)
        output = output[0] if isinstance(output, tuple | list) else output
        latents: Tensor = self._form.unpack(output, self.grid, self.latent_shape)
        return latents[:, : self.num_channels]
