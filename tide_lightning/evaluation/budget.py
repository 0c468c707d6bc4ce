"""Time for a test: what each part may take, and what was cut so that all of it fits."""

from __future__ import annotations

import time
from typing import Any

import torch

from tide_lightning.errors import UserError
from tide_lightning.reduction import broadcast

WEIGHTS = {"calibration": 1.0, "reconstruction": 5.0, "images": 3.0, "sections": 4.0}
"""The parts in their order. Of what is left when a part begins it gets its share; what it leaves, the others get."""

FIDELITY_SHARE = 0.45
"""Of reconstruction's time, which reads the same samples, until when samples are spliced too."""

_RESERVE = 0.04  # for adding up and writing


class Budget:
    """Minutes to spend from now on, or any number of them.

    Args:
        minutes: None for as long as it takes.
    """

    def __init__(self, minutes: float | None) -> None:
        if minutes is not None and minutes <= 0:
            raise UserError(f"--budget {minutes:g}: give minutes, more than 0")
        self.minutes = minutes
        self.cut: dict[str, dict[str, int]] = {}
        self._begun = time.monotonic()

    def left(self) -> float | None:
        """Seconds that may still be spent; not below 0."""
        if self.minutes is None:
            return None
        return max(0.0, self._begun + 60 * self.minutes * (1 - _RESERVE) - time.monotonic())

    def deadline(self, part: str, absent: tuple[str, ...] = (), share: float = 1.0) -> float | None:
        """When a part that begins now has to end, on `time.monotonic`."""
        left, names = self.left(), list(WEIGHTS)
        if left is None:
            return None
        still = sum(WEIGHTS[name] for name in names[names.index(part) :] if name not in absent)
        return time.monotonic() + left * share * WEIGHTS[part] / still

    def note(self, what: str, done: int, wanted: int) -> None:
        """Remember that less was done than wanted."""
        if done < wanted:
            self.cut[what] = {"done": done, "of": wanted}

    def figures(self) -> dict[str, Any]:
        """The entry `budget` of metrics.json; nothing without a budget."""
        if self.minutes is None:
            return {}
        return {"minutes": self.minutes, "seconds_spent": time.monotonic() - self._begun, "cut": self.cut}


def is_late(deadline: float | None, device: torch.device) -> bool:
    """Whether a deadline has passed, by the clock of the first rank: all ranks decide alike."""
    if deadline is None:
        return False
    return bool(broadcast(torch.tensor(time.monotonic() > deadline, device=device, dtype=torch.uint8)))


def cut_lines(budget: dict[str, Any]) -> list[str]:
    """What people are told of it, from the entry of metrics.json."""
    return [f"{what}: {cut['done']:,} of {cut['of']:,}" for what, cut in budget.get("cut", {}).items()]
