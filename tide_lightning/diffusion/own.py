"""Denoisers of anybody's own code: what a short adapter has to say. See docs/tutorials/your-dit.md."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.diffusion.class_labels import ClassConditional
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.grid import Grid
from tide_lightning.errors import UserError


class OwnDenoiser(ClassConditional):
    """A denoiser that no pipeline holds; subclasses are its adapters.

    An adapter says how the module is made and weighed, which scheduler's conventions it follows, and how big latents
    are. As it stands it is told timesteps and classes; an adapter with prompts overrides `prompt_shape`,
    `encode_prompt` and `blank_conditioning`.

    Args:
        pretrained: what the user wrote there: a checkpoint's path, a size, whatever the adapter makes of it.
        with_weights: False for shapes alone, on the meta device.
        dtype: precision of the module.
        latent_size: rows and columns of a latent; the adapter's own unless given.
    """

    num_channels: int = 4
    default_latent_size: Grid = (32, 32)
    patch_shape: Grid = (2, 2)

    def __init__(
        self,
        pretrained: str,
        *,
        with_weights: bool = True,
        dtype: torch.dtype = torch.float32,
        latent_size: Sequence[int] | None = None,
    ) -> None:
        self.pretrained = pretrained
        self._latent_size = None if latent_size is None else tuple(latent_size)  # `make_module` may ask for the grid
        if with_weights:
            module = self.make_module()
            _load(module, self.weights(), pretrained)
            nn.Module.to(module, dtype)  # diffusers' own warns of parts to be kept in float32, though there be none
        else:
            with torch.device("meta"):
                module = self.make_module()
            module.to("meta")
        self._vae = self.make_vae() if with_weights else None
        super().__init__(module, self.make_scheduler(), None, latent_size)

    @abstractmethod
    def make_module(self) -> nn.Module:
        """The module, with any weights."""

    @abstractmethod
    def weights(self) -> Mapping[str, Tensor]:
        """Its state dict."""

    @abstractmethod
    def make_scheduler(self) -> Any:
        """A diffusers scheduler: the noise schedule, what is predicted, and how trajectories step."""

    def make_vae(self) -> Any:
        """A diffusers autoencoder between images and latents; None where latents are pixels, or nobody looks."""
        return None

    @property
    def vae(self) -> Any:
        """The adapter's."""
        return self._vae

    def forward(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """Call the module as DiT is called: input, timestep, class."""
        output: Tensor = self.module(x_t, raw_t, conditioning.extra["class_labels"])
        return output[:, : self.num_channels]


def run_eagerly(module: nn.Module) -> None:
    """Have a module whose code compiles parts of itself (`@torch.compile`) run as it is written.

    What is compiled calls no hook inside, so that the parts of a compiled block cannot be read.
    """
    if any(_is_compiled(type(part).forward) for part in module.modules()):
        module.forward = torch.compiler.set_stance("force_eager")(module.forward)


def _is_compiled(forward: Any) -> bool:
    """Whether a forward is compiled, or calls a function beside it that is."""
    beside = getattr(forward, "__globals__", {}).values()
    return any(hasattr(function, "_torchdynamo_orig_callable") for function in [forward, *beside])


def _load(module: nn.Module, weights: Mapping[str, Tensor], pretrained: str) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(line.strip() for line in str(error).splitlines()[1:3])
        raise UserError(f"the weights of {pretrained!r} do not fit {type(module).__name__}: {reason}") from None
