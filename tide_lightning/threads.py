"""Independent work side by side: two things at a time on a CPU with a core to spare, elsewhere one after another."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

from tide_lightning.cores import core_to_spare
from tide_lightning.reduction import is_distributed

T = TypeVar("T")
R = TypeVar("R")

_filtering_warnings = threading.RLock()


@contextmanager
def filtering_warnings() -> Iterator[None]:
    """As `warnings.catch_warnings`, a thread at a time.

    Filters are the process's: threads that left in another order than they came would mix them up.
    """
    with _filtering_warnings, warnings.catch_warnings():
        yield


def side_by_side(run: Callable[[T], R], items: Iterable[T], device: torch.device) -> list[R]:
    """What `run` makes of each item, in order; no run may touch what another one writes.

    Of several processes each works through its items in order, for `run` may sum over them.
    """
    items = list(items)
    if len(items) < 2 or is_distributed() or not core_to_spare(device):
        return [run(item) for item in items]
    # A thread begins with settings of its own.
    needs_grad, infers = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kind, casts = device.type, torch.is_autocast_enabled(device.type)
    dtype = torch.get_autocast_dtype(kind)

    def run_here(item: T) -> R:
        with torch.inference_mode(infers), torch.set_grad_enabled(needs_grad), torch.autocast(kind, dtype, casts):
            return run(item)

    with ThreadPoolExecutor(2, thread_name_prefix="beside") as threads:
        return list(threads.map(run_here, items))
