"""The Triton kernels where Triton is installed, which it is with PyTorch for CUDA."""

import functools
import importlib.util
import os
from types import ModuleType

import torch
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.kernels.csr import Csr


def matmul(matrix: Csr, dense: Tensor) -> Tensor:
    """The sparse product; sums are kept in float32, and repeatable."""
    product: Tensor = _kernels(dense.device).matmul(matrix, dense)
    return product


def dot_products(code: Csr, left_ND: Tensor, right_MD: Tensor) -> Tensor:
    """left[n] . right[m] for every entry (n, m) of the code, [Z]."""
    products_Z: Tensor = _kernels(left_ND.device).dot_products(code, left_ND, right_MD)
    return products_Z


def works_on(device: torch.device) -> bool:
    """Whether these kernels run on a device by themselves: Triton, a GPU that has bf16, and no compiler above."""
    return device.type == "cuda" and not torch.compiler.is_compiling() and _runs_on_gpu(device)


@functools.cache
def _runs_on_gpu(device: torch.device) -> bool:
    return importlib.util.find_spec("triton") is not None and torch.cuda.get_device_capability(device) >= (8, 0)


def _kernels(device: torch.device) -> ModuleType:
    if device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise UserError("decode backend 'triton' needs a GPU: choose 'auto' on the CPU")
    return _imported()


@functools.cache
def _imported() -> ModuleType:
    try:
        from tide_lightning.kernels.backends import triton_kernels
    except ImportError as error:
        raise UserError(
            f"decode backend 'triton' needs Triton ({error}): pip install triton, or choose 'auto'"
        ) from error
    return triton_kernels
