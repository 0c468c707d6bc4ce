"""Floating-point numbers as integers of the same order, so that the largest are found by their bits.

Every number has a key, infinities and what is no number included; -0 comes before 0.
"""

import triton
import triton.language as tl
from torch import Tensor


def bits_of(numbers: Tensor) -> int:
    """How many bits its keys have."""
    return 8 * numbers.element_size()


@triton.jit
def to_key(numbers, BITS: tl.constexpr):
    """int32; negative numbers' bits count backwards."""
    if BITS == 32:
        bits = numbers.to(tl.int32, bitcast=True)
        return bits ^ ((bits >> 31) & 0x7FFFFFFF)
    else:
        bits = numbers.to(tl.int16, bitcast=True).to(tl.int32)
        return bits ^ ((bits >> 15) & 0x7FFF)


@triton.jit
def from_key(keys, DTYPE: tl.constexpr, BITS: tl.constexpr):
    """The numbers."""
    if BITS == 32:
        return (keys ^ ((keys >> 31) & 0x7FFFFFFF)).to(DTYPE, bitcast=True)
    else:
        return (keys ^ ((keys >> 15) & 0x7FFF)).to(tl.int16).to(DTYPE, bitcast=True)


@triton.jit
def least_key(BITS: tl.constexpr):
    """Below every number's, or equal to the last of them."""
    return -(2 ** (BITS - 1))


@triton.jit
def weight_of(weights, row, WEIGHTED: tl.constexpr):
    """What a row's numbers are multiplied by before they are compared."""
    if WEIGHTED:
        return tl.load(weights + row)
    else:
        return 1.0
