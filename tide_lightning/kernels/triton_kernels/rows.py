"""What is done to the decoder's rows at each step, a program a row; what it reads for the second time lies at hand.

Shape suffixes: M rows, D channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.triton_kernels import on_its_device


@on_its_device
def project(grad_MD: Tensor, weight_MD: Tensor) -> Tensor:
    """Remove from each row of a gradient its part along the weight's row, in place; the norm of what is left."""
    norm_M = torch.empty(len(grad_MD), dtype=torch.float32, device=grad_MD.device)
    if grad_MD.numel():
        rows = grad_MD, grad_MD.stride(0), weight_MD, weight_MD.stride(0)
        _project[(len(grad_MD),)](*rows, norm_M, grad_MD.shape[1], CHANNELS=_block(grad_MD))
    return torch.linalg.vector_norm(norm_M)


@on_its_device
def normalise(weight_MD: Tensor) -> None:
    """Give each row unit norm, in place; a row of zeros stays one."""
    if weight_MD.numel():
        rows = weight_MD, weight_MD.stride(0)
        _normalise[(len(weight_MD),)](*rows, weight_MD.shape[1], CHANNELS=_block(weight_MD))


def _block(matrix_MD: Tensor) -> int:
    return min(1024, max(16, triton.next_power_of_2(matrix_MD.shape[1])))


@triton.jit
def _project(grad, grad_stride, weight, weight_stride, norm, num_channels, CHANNELS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    grad += row * grad_stride
    weight += row * weight_stride
    product = tl.zeros([CHANNELS], dtype=tl.float32)
    for first in range(0, num_channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < num_channels
        part = tl.load(grad + channel, mask=inside, other=0.0).to(tl.float32)
        product += part * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    along = tl.sum(product, axis=0)
    square = tl.zeros([CHANNELS], dtype=tl.float32)
    for first in range(0, num_channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < num_channels
        left = tl.load(grad + channel, mask=inside, other=0.0).to(tl.float32)
        left -= along * tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad + channel, left.to(grad.dtype.element_ty), mask=inside)
        square += left * left
    tl.store(norm + row, tl.sqrt_rn(tl.sum(square, axis=0)))


@triton.jit
def _normalise(weight, stride, num_channels, CHANNELS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    weight += row * stride
    square = tl.zeros([CHANNELS], dtype=tl.float32)
    for first in range(0, num_channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        part = tl.load(weight + channel, mask=channel < num_channels, other=0.0).to(tl.float32)
        square += part * part
    norm = tl.maximum(tl.sqrt_rn(tl.sum(square, axis=0)), 1e-12)
    for first in range(0, num_channels, CHANNELS):
        channel = first + tl.arange(0, CHANNELS)
        inside = channel < num_channels
        part = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
        tl.store(weight + channel, tl.div_rn(part, norm + part * 0.0).to(weight.dtype.element_ty), mask=inside)
