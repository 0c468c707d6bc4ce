"""Training by the clock, over as many runs as it takes."""

import time
from pathlib import Path
from typing import Any

import torch

from tide_lightning.files import whole_file


class Clock:
    """The time that a training may take, and how much of it has passed, over all of its runs.

    On a CPU it is the time that the processor worked for it: where others are served first, it takes longer and is
    no worse for it. `elapsed` are the seconds that earlier runs took.
    """

    def __init__(self, minutes: float, elapsed: float = 0.0, device: torch.device | None = None) -> None:
        self._now = time.process_time if device is None or device.type == "cpu" else time.monotonic
        self._seconds = 60 * minutes
        self._start = self._now() - elapsed
        self._marked = elapsed

    @property
    def elapsed(self) -> float:
        """Seconds so far."""
        return self._now() - self._start

    @property
    def minutes(self) -> float:
        """Minutes so far."""
        return round(self.elapsed / 60, 2)

    @property
    def share(self) -> float:
        """How much of the time has passed, at most 1."""
        return min(1.0, self.elapsed / self._seconds)

    def every(self, minutes: float) -> bool:
        """Whether so many minutes have passed since this was last true, or all of them."""
        if self.share < 1 and self.elapsed - self._marked < 60 * minutes:
            return False
        self._marked = self.elapsed
        return True


def save_checkpoint(state: dict[str, Any], path: Path) -> None:
    """Write a checkpoint whole or not at all."""
    with whole_file(path) as part:
        torch.save(state, part)


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint to go on from, or None where a training is new."""
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    return state


def any_device(named: str | None) -> torch.device:
    """The device that is named, or a GPU if there is one."""
    return torch.device(named or ("cuda" if torch.cuda.is_available() else "cpu"))
