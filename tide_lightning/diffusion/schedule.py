"""The conventions of a noise schedule: what t means, how noise is added, what the denoiser predicts.

x_t = alpha(t) x_0 + sigma(t) noise. Variance-preserving schedules have alpha^2 + sigma^2 = 1, flows alpha = 1 - sigma.
`t` is normalised to [0, 1] with 1 for pure noise; `raw_t` is what the denoiser is given.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from tide_lightning.errors import UserError

_MIN_VARIANCE = 1e-12  # keeps the log-SNR finite where a schedule ends in pure noise or starts without any


class Schedule(ABC):
    """Signal, noise and time of one denoiser. Every method takes raw_t [N] and works on raw_t's device."""

    prediction: str
    """What the denoiser predicts: `epsilon`, `v_prediction`, `sample` or `flow`."""

    @abstractmethod
    def t(self, raw_t: Tensor) -> Tensor:
        """Normalised time of a raw timestep."""

    @abstractmethod
    def raw_t(self, t: Tensor) -> Tensor:
        """The nearest raw timestep that the denoiser was trained on."""

    @abstractmethod
    def alpha_sigma(self, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of signal and noise, both [N]."""

    def log_snr(self, raw_t: Tensor) -> Tensor:
        """log(alpha^2 / sigma^2) [N]."""
        alpha, sigma = self.alpha_sigma(raw_t)
        return (alpha**2).clamp_min(_MIN_VARIANCE).log() - (sigma**2).clamp_min(_MIN_VARIANCE).log()

    def add_noise(self, x0: Tensor, noise: Tensor, raw_t: Tensor) -> Tensor:
        """x_t from a clean latent and noise."""
        alpha, sigma = self._weights(x0, raw_t)
        return alpha * x0 + sigma * noise

    def target(self, x0: Tensor, noise: Tensor, raw_t: Tensor) -> Tensor:
        """What a perfect denoiser would predict."""
        alpha, sigma = self._weights(x0, raw_t)
        targets = {
            "epsilon": noise,
            "sample": x0,
            "v_prediction": alpha * noise - sigma * x0,
            "flow": noise - x0,
        }
        return targets[self.prediction]

    def _weights(self, like: Tensor, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.alpha_sigma(raw_t)
        shape = (-1,) + (1,) * (like.ndim - 1)
        return alpha.reshape(shape), sigma.reshape(shape)


class VariancePreserving(Schedule):
    """DDPM and its kin: integer timesteps 0 .. T - 1 into a table of cumulated alphas."""

    def __init__(self, alphas_cumprod: Tensor, prediction: str) -> None:
        if prediction not in ("epsilon", "v_prediction", "sample"):
            raise UserError(f"the scheduler predicts {prediction!r}; known are epsilon, v_prediction and sample")
        self.prediction = prediction
        self._table = alphas_cumprod.detach().to("cpu", torch.float32)
        self._tables = {self._table.device: self._table}  # a copy on each device that asks

    @property
    def num_timesteps(self) -> int:
        """How many timesteps the denoiser was trained on, T."""
        return self._table.shape[0]

    def t(self, raw_t: Tensor) -> Tensor:
        """Normalised time of a raw timestep: raw_t / (T - 1)."""
        return raw_t.float() / (self.num_timesteps - 1)

    def raw_t(self, t: Tensor) -> Tensor:
        """The raw timestep whose T-th part of [0, 1] t lies in."""
        return (t * self.num_timesteps).floor().clamp(0, self.num_timesteps - 1).float()

    def alpha_sigma(self, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """From the table; between its entries, as some samplers ask for, by interpolation."""
        if raw_t.device not in self._tables:
            self._tables[raw_t.device] = self._table.to(raw_t.device)
        table = self._tables[raw_t.device]
        place = raw_t.float().clamp(0, self.num_timesteps - 1)
        low = place.floor().long()
        high = (low + 1).clamp_max(self.num_timesteps - 1)
        alphas_cumprod = torch.lerp(table[low], table[high], place - low)
        return alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()


class Flow(Schedule):
    """Rectified flows: the timestep is sigma, times what the denoiser's convention multiplies it by."""

    prediction = "flow"

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def t(self, raw_t: Tensor) -> Tensor:
        """Sigma."""
        return raw_t.float() / self.scale

    def raw_t(self, t: Tensor) -> Tensor:
        """Sigma in the denoiser's convention."""
        return t.float() * self.scale

    def alpha_sigma(self, raw_t: Tensor) -> tuple[Tensor, Tensor]:
        """1 - sigma and sigma."""
        sigma = self.t(raw_t)
        return 1 - sigma, sigma


def schedule_of(scheduler: Any, timestep_divisor: float = 1.0) -> Schedule:
    """The conventions of a diffusers scheduler, for a denoiser that is given timestep / divisor."""
    config = scheduler.config
    prediction = config.get("prediction_type", "epsilon")
    if type(scheduler).__name__.startswith("FlowMatch") or prediction == "flow_prediction":
        return Flow(scale=float(config.num_train_timesteps) / timestep_divisor)
    if not isinstance(getattr(scheduler, "alphas_cumprod", None), Tensor):
        raise UserError(f"scheduler {type(scheduler).__name__} has no table of cumulated alphas and is not a flow")
    return VariancePreserving(scheduler.alphas_cumprod, prediction)
