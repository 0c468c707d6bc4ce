"""Where in a block of pre-activations something is: a few places among very many, in order.

A place counts row by row. On a CPU PyTorch looks for what is true one by one; here eight at a time, since few are.

Shape suffixes: n tokens and m latents of a block, M latents in all, Z places.
"""

from __future__ import annotations

import torch
from torch import Tensor


def above(pre_nm: Tensor, floor: float | Tensor) -> Tensor:
    """The places of what exceeds a floor, in order; int64."""
    is_above = (pre_nm > floor).flatten()
    if is_above.device.type != "cpu" or is_above.numel() % 8:
        return is_above.nonzero().squeeze(1)
    eights = is_above.view(torch.int64)
    some = eights.nonzero().squeeze(1)
    within = eights[some].view(torch.bool).nonzero().squeeze(1)
    return some[within >> 3] * 8 + (within & 7)


def ascending(positions_Z: Tensor, count: int) -> Tensor:
    """Positions below a count, each once, in order: marked, which is faster than sorted."""
    is_one = torch.zeros(count, dtype=torch.bool, device=positions_Z.device)
    is_one[positions_Z] = True
    return is_one.nonzero().squeeze(1)


def in_whole(places: Tensor, width: int, first_token: int, first_latent: int, num_latents: int) -> Tensor:
    """The places in all pre-activations [N, M] of places in a block of a width that begins there."""
    tokens = places.div(width, rounding_mode="floor")
    return (tokens + first_token) * num_latents + (places - tokens * width) + first_latent
