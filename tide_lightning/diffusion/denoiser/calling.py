"""Calling the transformer: its arguments, its prediction, and the scheduler's time that it is told."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Literal, Self

import torch
from torch import Tensor

from tide_lightning.diffusion import hooks
from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser.latents import HasLatents
from tide_lightning.diffusion.schedule import Schedule
from tide_lightning.threads import filtering_warnings

Guidance = Literal["classifier_free", "embedded", "none"]
Around = Callable[[Tensor, Tensor, Conditioning], AbstractContextManager[None]]
"""Made of x_t, raw_t and conditioning, entered for the forward on them."""


class CallsModule(HasLatents):
    """A denoiser's forward on latents, and the trajectories' scheduler.

    Attributes:
        scheduler: the pipeline's; copies of it drive trajectories.
        schedule: its alphas and sigmas, over the timesteps that the transformer is told.
    """

    scheduler: Any
    schedule: Schedule
    _around: Around

    @property
    def timestep_divisor(self) -> float:
        """The denoiser is given the scheduler's timestep divided by this."""
        return 1.0

    @property
    def guidance(self) -> Guidance:
        """Two halves (classifier_free), a number that the transformer is told (embedded), or none."""
        return "classifier_free"

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

    def predict(self, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's prediction for x_t at raw_t [N], float32, in its own precision whatever autocast says."""
        no_autocast = torch.autocast(x_t.device.type, enabled=False)
        with hooks.lock_of(self.module), no_autocast, self._around(x_t, raw_t, conditioning):
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

    def scheduler_arguments(self, num_inference_steps: int) -> dict[str, Any]:
        """What the pipeline's own call sets its scheduler's timesteps with."""
        arguments: dict[str, Any] = {"num_inference_steps": num_inference_steps}
        if self.scheduler.config.get("use_dynamic_shifting"):
            arguments["mu"] = _dynamic_shift(self.scheduler.config, self.num_tokens)
        return arguments

    def new_scheduler(self, num_inference_steps: int) -> Any:
        """A copy of the pipeline's scheduler, set to the start of a trajectory."""
        scheduler = copy.deepcopy(self.scheduler)
        with filtering_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # diffusers' schedulers under numpy 2
            scheduler.set_timesteps(**self.scheduler_arguments(num_inference_steps))
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(0)
        return scheduler

    def raw_t(self, timestep: Tensor) -> Tensor:
        """What the denoiser is given at a scheduler's timestep."""
        return timestep.float() / self.timestep_divisor


def _dynamic_shift(config: Any, num_tokens: int) -> float:
    """The mu of flow schedulers that shift timesteps by the number of image tokens: a line through two points."""
    low, high = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
    at_low, at_high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
    slope = (at_high - at_low) / (high - low)
    return float(num_tokens * slope + (at_low - slope * low))
