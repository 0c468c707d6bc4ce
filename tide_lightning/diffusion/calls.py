"""Contexts around a transformer's calls, whoever makes them: a pipeline's own call, or anybody's loop."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import nn

from tide_lightning.diffusion.denoiser import Around, Denoiser


@contextmanager
def around_calls(denoiser: Denoiser, around: Around) -> Iterator[None]:
    """Enter a context for each call of the denoiser's module that is made inside."""
    signature = inspect.signature(denoiser.module.forward)
    entered = ExitStack()

    def before(_: nn.Module, args: Any, kwargs: Any) -> None:
        entered.enter_context(around(*denoiser.given(signature.bind(*args, **kwargs).arguments)))

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
