"""The noise in a trajectory's input, as its steps so far tell it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion.schedule import Schedule


class _Input(NamedTuple):
    x_t: Tensor
    raw_t: float


class TrajectoryNoise:
    """Solves the last two inputs of a trajectory for their noise.

    Both are alpha x_0 + sigma noise. Were x_0 and the noise the same in both, they would follow from these two
    equations; and after a deterministic first-order step (DDIM, Euler on flows) they are the same: what was predicted,
    under guidance, at the step before. Other samplers mix in older predictions or fresh noise. A trajectory's first
    input is noise and counts as such. A timestep above the last begins a new trajectory.

    Args:
        schedule: the denoiser's.
        inputs: the last ones of the trajectory so far with their timesteps, two at most.
    """

    def __init__(self, schedule: Schedule, inputs: Sequence[tuple[Tensor, float]] = ()) -> None:
        self._schedule = schedule
        self._inputs = [_Input(*one) for one in inputs]

    def __call__(self, x_t: Tensor, raw_t: float) -> Tensor:
        """The noise in the next input, all of whose samples are at one timestep [N, *latent_shape]."""
        now = _Input(x_t.float(), raw_t)
        if self._inputs and not self._follows(now, self._inputs[-1]):
            self._inputs = []
        if self._inputs and now.raw_t == self._inputs[-1].raw_t:
            self._inputs[-1] = now  # samplers of higher order come to one timestep twice
        else:
            self._inputs = [*self._inputs[-1:], now]
        if len(self._inputs) == 1:
            return now.x_t
        before = self._inputs[0]
        (alpha, sigma), (alpha_before, sigma_before) = self._weights(now), self._weights(before)
        difference = alpha_before * now.x_t - alpha * before.x_t
        return difference / (alpha_before * sigma - alpha * sigma_before)

    def inputs(self) -> list[tuple[Tensor, float]]:
        """What a copy has to be given to go on from here."""
        return [(one.x_t, one.raw_t) for one in self._inputs]

    def _follows(self, now: _Input, last: _Input) -> bool:
        return now.x_t.shape == last.x_t.shape and self._weights(now)[1] <= self._weights(last)[1]

    def _weights(self, one: _Input) -> tuple[float, float]:
        alpha, sigma = self._schedule.alpha_sigma(torch.tensor([one.raw_t]))
        return float(alpha), float(sigma)
