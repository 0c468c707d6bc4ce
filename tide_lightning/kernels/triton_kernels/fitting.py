"""Values fitted to a target, a program a token: conjugate gradients on |target - values R|^2, R the token's own rows.

A token of up to 128 latents reads its rows once, for R R^T and R target; the steps then need numbers of its own
latents only. Tokens go by size, so that few reckon with many zeros. Longer ones read their rows again at each step.

Shape suffixes: N tokens, M latents, D channels, Z entries; S the size that a program is made for.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from tide_lightning.kernels.csr import Csr
from tide_lightning.kernels.triton_kernels import on_its_device

SIZES = (16, 32, 64, 128)


@on_its_device
def fit(target_ND: Tensor, code: Csr, weight_MD: Tensor, steps: int, longest: int | None) -> Tensor:
    """The fitted values [Z], float32.

    Args:
        target_ND: float32.
        code: where to begin; values are float32.
        weight_MD: rows of any type of up to 32 bits.
        steps: of conjugate gradients.
        longest: the most latents of a token, where the host knows.
    """
    fitted_Z = torch.empty_like(code.values)
    num_channels = weight_MD.shape[1]
    operands = target_ND.contiguous(), code.values, code.columns, code.row_pointer, weight_MD.contiguous(), fitted_Z
    if fitted_Z.numel() == 0:
        return fitted_Z
    # Triton's interpreter multiplies bf16's bits as integers, so there rows are widened first: the same sums.
    is_narrow = weight_MD.element_size() == 2 and isinstance(_fit_by_gram, triton.JITFunction)
    for low, size in zip((0, *SIZES), SIZES, strict=False):
        if longest is None or low < longest:
            _fit_by_gram[(code.num_rows,)](
                *operands,
                num_channels,
                steps,
                low,
                SIZE=size,
                CHANNELS=64 if is_narrow else 32,
                IS_NARROW=is_narrow,
                num_warps=8 if size == SIZES[-1] else 4,
            )
    if longest is None or longest > SIZES[-1]:
        channels = max(16, triton.next_power_of_2(num_channels))
        _fit_by_rows[(code.num_rows,)](
            *operands,
            num_channels,
            steps,
            SIZES[-1],
            ENTRIES=max(2, min(8, 16384 // channels)),
            CHANNELS=channels,
            num_warps=min(16, max(1, channels // 128)),
        )
    return fitted_Z


@triton.jit
def _rounding(square):
    """What counts as no gradient's square, given the target's: see `fit_values` on a CPU."""
    return 3.637979e-12 * square  # (16 times the epsilon of float32) squared


@triton.jit
def _ratio(above, below):
    """A quotient of squares that is 0 where nothing is left to divide by."""
    tiny = 1.1754944e-38
    return tl.where(below > tiny, above, 0.0) / tl.maximum(below, tiny)


@triton.jit
def _fit_by_gram(
    target,
    values,
    columns,
    row_pointer,
    weight,
    fitted,
    num_channels,
    steps,
    low,
    SIZE: tl.constexpr,
    CHANNELS: tl.constexpr,
    IS_NARROW: tl.constexpr,
):
    """Tokens of more than `low` latents and up to SIZE."""
    token = tl.program_id(0).to(tl.int64)
    start = tl.load(row_pointer + token)
    end = tl.load(row_pointer + token + 1)
    if (end - start > low) & (end - start <= SIZE):
        entry = start + tl.arange(0, SIZE)
        inside = entry < end
        rows = weight + tl.load(columns + entry, mask=inside, other=0)[:, None] * num_channels
        gram = tl.zeros([SIZE, SIZE], dtype=tl.float32)
        left = tl.zeros([SIZE], dtype=tl.float32)
        goal_square = tl.zeros([CHANNELS], dtype=tl.float32)
        for first in range(0, num_channels, CHANNELS):
            channel = first + tl.arange(0, CHANNELS)
            is_channel = channel < num_channels
            part = tl.load(rows + channel[None, :], mask=inside[:, None] & is_channel[None, :], other=0.0)
            goal = tl.load(target + token * num_channels + channel, mask=is_channel, other=0.0)
            left += tl.sum(part.to(tl.float32) * goal[None, :], axis=1)
            goal_square += goal * goal
            if IS_NARROW:
                gram = tl.dot(part, tl.trans(part), gram)
            else:
                wide = part.to(tl.float32)
                gram = tl.dot(wide, tl.trans(wide), gram, input_precision="ieee")
        value = tl.load(values + entry, mask=inside, other=0.0)
        left -= tl.sum(gram * value[None, :], axis=1)
        direction = tl.zeros([SIZE], dtype=tl.float32)
        rounding = _rounding(tl.sum(goal_square, axis=0))
        square = 0.0
        for _ in range(steps):
            before = square
            square = tl.sum(left * left, axis=0)
            square = tl.where(square > rounding, square, 0.0)
            direction = left + _ratio(square, before) * direction
            image = tl.sum(gram * direction[None, :], axis=1)
            length = _ratio(square, tl.sum(direction * image, axis=0))
            value += length * direction
            left -= length * image
        tl.store(fitted + entry, value, mask=inside)


@triton.jit
def _fit_by_rows(
    target,
    values,
    columns,
    row_pointer,
    weight,
    fitted,
    num_channels,
    steps,
    low,
    ENTRIES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Tokens of more than `low` latents.

    What is added to the values is R times a sum of what was left at each step: that sum is kept, and read at the end.
    """
    token = tl.program_id(0).to(tl.int64)
    start = tl.load(row_pointer + token)
    end = tl.load(row_pointer + token + 1)
    if end - start > low:
        channel = tl.arange(0, CHANNELS)
        left = tl.load(target + token * num_channels + channel, mask=channel < num_channels, other=0.0)
        rounding = _rounding(tl.sum(left * left, axis=0))
        for first in range(start, end, ENTRIES):
            part, value = _part(weight, columns, values, first, end, channel, num_channels, ENTRIES)
            left -= tl.sum(part * value[:, None], axis=0)
        direction = tl.zeros([CHANNELS], dtype=tl.float32)
        source = tl.zeros([CHANNELS], dtype=tl.float32)  # R source is the direction among the values
        total = tl.zeros([CHANNELS], dtype=tl.float32)
        square = 0.0
        for _ in range(steps):
            gradient = tl.zeros([CHANNELS], dtype=tl.float32)
            for first in range(start, end, ENTRIES):
                part, value = _part(weight, columns, values, first, end, channel, num_channels, ENTRIES)
                gradient += tl.sum(part * tl.sum(part * left[None, :], axis=1)[:, None], axis=0)
            before = square
            square = tl.sum(left * gradient, axis=0)
            square = tl.where(square > rounding, square, 0.0)
            kept = _ratio(square, before)
            direction = gradient + kept * direction
            source = left + kept * source
            length = _ratio(square, tl.sum(direction * direction, axis=0))
            total += length * source
            left -= length * direction
        for first in range(start, end, ENTRIES):
            part, value = _part(weight, columns, values, first, end, channel, num_channels, ENTRIES)
            value += tl.sum(part * total[None, :], axis=1)
            entry = first + tl.arange(0, ENTRIES)
            tl.store(fitted + entry, value, mask=entry < end)


@triton.jit
def _part(weight, columns, values, first, end, channel, num_channels, ENTRIES: tl.constexpr):
    """Some of a token's rows and values, float32."""
    entry = first + tl.arange(0, ENTRIES)
    inside = entry < end
    column = tl.load(columns + entry, mask=inside, other=0)
    pointer = weight + column[:, None] * num_channels + channel[None, :]
    part = tl.load(pointer, mask=inside[:, None] & (channel < num_channels)[None, :], other=0.0).to(tl.float32)
    return part, tl.load(values + entry, mask=inside, other=0.0)
