"""Kernels of our own in Triton's language, for CUDA; by Triton's interpreter they run on a CPU, in tests.

The modules here import Triton, so they are imported where they are used and not before.
"""

import functools
import importlib.util
import os
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

from tide_lightning.errors import UserError

TYPES = (torch.float32, torch.bfloat16, torch.float16)
"""What Triton computes here by default; float64 is for checks."""

_P = ParamSpec("_P")
_R = TypeVar("_R")


def work_on(device: torch.device) -> bool:
    """Whether these kernels run on a device by themselves: Triton, a GPU that has bf16, and no compiler above."""
    return device.type == "cuda" and not torch.compiler.is_compiling() and _run_on_gpu(device)


def chosen_for(operand: Tensor, backend: str = "auto") -> bool:
    """Whether what is no sparse product is done by Triton, too: on a GPU, and wherever the products are."""
    if backend == "triton":
        check(operand.device)
    return operand.dtype in TYPES and (backend == "triton" or work_on(operand.device))


def check(device: torch.device) -> None:
    """They must run on this device."""
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("decode backend 'triton' needs a GPU: choose 'auto' on the CPU")
    if importlib.util.find_spec("triton") is None:
        raise UserError("decode backend 'triton' needs Triton: pip install triton, or choose 'auto'")


def on_its_device(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Let a function launch its kernels where its first tensor is: Triton itself takes the current GPU."""

    @functools.wraps(function)
    def launched(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with torch.cuda.device_of(next(arg for arg in args if isinstance(arg, Tensor))):
            return function(*args, **kwargs)

    return launched


@functools.cache
def _run_on_gpu(device: torch.device) -> bool:
    return importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (8, 0)
