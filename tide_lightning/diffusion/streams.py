"""Streams of work on one GPU: what is kept for several of them, and copies that wait for none.

A stream is a queue of work for the GPU. Two of them share a denoiser: batches are made on one, training runs on the
other, and what the one keeps the other may read before it is there. On a CPU nothing is queued, and all of this does
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class StreamOrder:
    """Whoever uses something that is kept on a device waits for those who used it before on other streams."""

    def __init__(self) -> None:
        self._last: tuple[Any, Any] | None = None  # a stream, and an event on it

    @contextmanager
    def __call__(self, device: torch.device) -> Iterator[None]:
        """Around all that reads or fills what is kept there."""
        if device.type not in ("cpu", "cuda"):
            yield
            return
        module = torch.get_device_module(device)
        stream, event = module.current_stream(device), module.Event()
        if self._last is not None and self._last[0] != stream:
            self._last[1].wait(stream)
        yield
        event.record(stream)
        self._last = stream, event


def hold(tensors: Iterable[Tensor]) -> None:
    """Keep the memory of tensors, whichever stream made them, until the current one has done what it is asked for."""
    for tensor in tensors:
        if tensor.is_cuda:
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def sent(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device; the host does not wait for what is under way there, as `to` makes it do."""
    if device.type != "cuda" or value.device.type != "cpu":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
