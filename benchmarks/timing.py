"""One stopwatch for all benchmarks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch


def timed(run: Callable[[], object], device: torch.device) -> float:
    """How long it takes, a GPU's work included."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
