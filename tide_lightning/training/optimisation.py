"""The optimiser, its schedule, and resetting single rows of its state."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.sharding import local_rows, rows_here


class IndependentAdam(torch.optim.Adam):
    """Adam for groups of parameters that know nothing of each other: each is clipped by its own gradient's norm.

    All is done in one pass over the weights (fused: a ninth of the unfused time on a CPU). So is clipping: `grad_scale`
    is how PyTorch's gradient scaler hands a fused optimiser the number that gradients are divided by, and `found_inf`
    how it lets it skip a step.

    Args:
        groups: of parameters.
        lr: learning rate.
        betas: decay rates.
    """

    _divisors: Tensor | None = None  # [groups], of the next step
    _skipped: Tensor | None = None  # [groups], 1 where it is none
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, groups: Iterable[Iterable[nn.Parameter]], lr: float, betas: tuple[float, float]) -> None:
        super().__init__([{"params": list(group)} for group in groups], lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def prepare_step(self, norms: Tensor, max_norm: float | None = None) -> Tensor:
        """Let the next step skip groups whose gradients' norm [groups] is not finite, and clip those above `max_norm`.

        Returns:
            Whether each group is skipped.
        """
        skipped = ~norms.isfinite()
        self._skipped = skipped.to(norms.dtype)
        self._divisors = (norms / max_norm).clamp(min=1) if max_norm else None
        return skipped

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Step every group, after the closure, which makes the gradients."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        if self._skipped is None:
            super().step()
            return loss
        groups, skipped, divisors = self.param_groups, self._skipped, self._divisors
        self._skipped = self._divisors = None
        try:
            for place, group in enumerate(groups):
                self.param_groups, self.found_inf = [group], skipped[place]
                self.grad_scale = None if divisors is None else divisors[place]
                super().step()
        finally:
            self.param_groups, self.found_inf, self.grad_scale = groups, None, None
        return loss


def warmup_then_decay(num_steps: float, warmup_steps: int, decay_fraction: float) -> Callable[[int], float]:
    """Factor of the learning rate: linear up, constant, linear to zero over the last part of a run that has an end."""
    has_end = decay_fraction > 0 and num_steps < math.inf
    decay_steps = max(1, round(num_steps * decay_fraction)) if has_end else 1

    def factor(step: int) -> float:
        up = min(1.0, (step + 1) / max(1, warmup_steps))
        down = min(1.0, max(0, num_steps - step) / decay_steps) if has_end else 1.0
        return up * down

    return factor


@torch.no_grad()
def reset_rows(optimizer: torch.optim.Optimizer, parameter: Tensor, rows: Tensor) -> None:
    """Zero the moments of exactly these rows; the step count is shared by the tensor and stays."""
    for value in optimizer.state.get(parameter, {}).values():
        if isinstance(value, Tensor) and value.shape == parameter.shape:
            local_rows(value)[rows_here(rows, value)] = 0
