"""Batches made in a thread while the last one is used, where PyTorch leaves a core idle."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")


def core_to_spare(device: torch.device) -> bool:
    """Whether batches made on this device can have a core of their own: PyTorch uses fewer threads than there are."""
    return device.type == "cpu" and torch.get_num_threads() < (os.cpu_count() or 1)


class Ahead(Generic[T]):
    """Makes the next thing in a thread while the last one is used.

    Args:
        make: called by one thread at a time; what it raises reaches who asked.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="harvest")
        self._waiting: Future[T] | None = None

    def next(self) -> T:
        """The next one; the one after it is begun."""
        waiting = self._waiting or self._thread.submit(self._make)
        self._waiting = None
        made = waiting.result()
        self._waiting = self._thread.submit(self._make)
        return made

    def settle(self) -> int:
        """Wait until nothing is under way; how many were made that nobody has taken."""
        return int(self._waiting is not None and self._waiting.exception() is None)

    def forget(self) -> None:
        """Drop what was made."""
        self.settle()
        self._waiting = None


def one_ahead(items: Iterator[T], device: torch.device) -> Iterator[T]:
    """The same items, made on this device; with a core to spare, the next is made in a thread while one is used."""
    if not core_to_spare(device):
        yield from items
        return
    ahead = Ahead(lambda: next(items, None))
    try:
        while (item := ahead.next()) is not None:
            yield item
    finally:
        ahead.forget()
