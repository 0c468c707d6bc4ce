"""Contexts around a transformer's calls, whoever makes them: a pipeline's own call, or anybody's loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tide_lightning.diffusion.denoiser import Around, Denoiser
from tide_lightning.diffusion.trajectory_noise import TrajectoryNoise


@contextmanager
def around_calls(denoiser: Denoiser, around: Around) -> Iterator[None]:
    """Enter a context for each call of the denoiser's module that is made inside.

    Those at one timestep count as a trajectory's.
    """
    noise_at = TrajectoryNoise(denoiser.schedule)
    signature = inspect.signature(denoiser.module.forward)
    entered = ExitStack()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        x_t, raw_t, conditioning = denoiser.given(signature.bind(*args, **kwargs).arguments)
        times = raw_t.unique()
        noise = noise_at(x_t, float(times)) if len(times) == 1 else None
        entered.enter_context(around(x_t, raw_t, conditioning.along(noise)))

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
