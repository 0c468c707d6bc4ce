"""Contexts around a transformer's calls, whoever makes them: a pipeline's own call, or anybody's loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from tide_lightning.diffusion.denoiser import Around, Denoiser
from tide_lightning.diffusion.trajectory_noise import TrajectoryNoise


@contextmanager
def around_calls(denoiser: Denoiser, around: Around) -> Iterator[None]:
    """Enter a context for each call of the denoiser's module that is made inside.

    Those at one timestep count as a trajectory's. A call on the same x_t twice is guided, the unconditional half first,
    unless the pipeline says that it guides nothing.
    """
    noise_at = TrajectoryNoise(denoiser.schedule)
    signature = inspect.signature(denoiser.module.forward)
    entered = ExitStack()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        x_t, raw_t, conditioning = denoiser.given(signature.bind(*args, **kwargs).arguments)
        times = raw_t.unique()
        noise = noise_at(x_t, float(times)) if len(times) == 1 else None
        conditioning = conditioning.along(noise)
        if _is_guided(denoiser, x_t):
            rows = torch.arange(len(x_t), device=x_t.device)
            conditioning = replace(conditioning, unconditional=rows < len(x_t) // 2)
        entered.enter_context(around(x_t, raw_t, conditioning))

    def behind(*_: Any) -> None:
        entered.close()

    handles = [
        denoiser.module.register_forward_pre_hook(before, with_kwargs=True),
        denoiser.module.register_forward_hook(behind, always_call=True),
    ]
    try:
        yield
    finally:
        entered.close()
        for handle in handles:
            handle.remove()


def _is_guided(denoiser: Denoiser, x_t: Tensor) -> bool:
    """Whether a pipeline's call holds both halves of a guided forward."""
    if denoiser.guidance != "classifier_free" or len(x_t) % 2:
        return False
    if getattr(denoiser.pipeline, "do_classifier_free_guidance", None) is False:
        return False
    first, second = x_t.chunk(2)
    return torch.equal(first, second)
