"""Replicas of a denoiser, which share its weights: each has hooks of its own, so threads can run them side by side."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from queue import SimpleQueue
from typing import TypeVar

import torch

from tide_lightning.cores import core_to_spare
from tide_lightning.diffusion import hooks
from tide_lightning.diffusion.denoiser import Denoiser

T = TypeVar("T")
R = TypeVar("R")


class Replicas:
    """Runs a denoiser on many things; on a CPU with a core to spare on two at a time. Results do not hang on that.

    Args:
        denoiser: one that nothing is entered for (`within`), such as the datamodule's.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._free: SimpleQueue[Denoiser] = SimpleQueue()
        self._threads: ThreadPoolExecutor | None = None
        if core_to_spare(denoiser.device) and (other := replicate(denoiser)) is not None:
            self._threads = ThreadPoolExecutor(2, thread_name_prefix="replica")
            for each in (denoiser, other):
                self._free.put(each)

    def map(self, run: Callable[[Denoiser, T], R], items: Iterable[T]) -> Iterator[R]:
        """What `run` makes of each item with a denoiser, in order."""
        if self._threads is None:
            yield from (run(self._denoiser, item) for item in items)
            return
        needs_grad = torch.is_grad_enabled()  # a thread begins with its own

        def run_here(item: T) -> R:
            denoiser = self._free.get()
            try:
                with torch.set_grad_enabled(needs_grad):
                    return run(denoiser, item)
            finally:
                self._free.put(denoiser)

        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self._threads.submit(run_here, item))
                if len(waiting) > 2:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def replicate(denoiser: Denoiser) -> Denoiser | None:
    """A denoiser with the same parts and weights, but modules of its own; None where these cannot be copied.

    A module of anyone's may hold a part of itself in a closure, and a compiled one its code: their copies would run the
    original's parts, and never reach a hook. So only modules of diffusers are copied, uncompiled.
    """
    from diffusers import ModelMixin  # slow to import

    module = denoiser.module
    compiled = any(getattr(part, "_compiled_call_impl", None) is not None for part in module.modules())
    if compiled or not isinstance(module, ModelMixin):
        return None
    shared = {id(tensor): tensor for tensor in chain(module.parameters(), module.buffers())}
    with hooks.lock_of(module):  # lest the hooks of another thread be copied
        try:
            replica = copy.deepcopy(module, shared)
        except Exception:  # it may hold anything, such as a lock
            return None
    twin = copy.copy(denoiser)
    twin.module = replica
    return twin
