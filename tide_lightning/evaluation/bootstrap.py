"""Intervals by bootstrap: what a share could have been, had other prompts, samples or seeds been drawn."""

from __future__ import annotations

import torch
from torch import Tensor

from tide_lightning.diffusion.counters import torch_generator

NUM_DRAWS = 2000
LEVEL = 0.95


def interval_of_ratio(parts_N: Tensor, wholes_N: Tensor, seed: int = 0) -> tuple[float, float]:
    """Where the middle 95 % of sum(parts) / sum(wholes) lie when units are drawn anew, with replacement.

    Args:
        parts_N: what each unit (a prompt, an image) adds to the numerator.
        wholes_N: and to the denominator.
        seed: of the draws.
    """
    drawn = torch.randint(len(parts_N), (NUM_DRAWS, len(parts_N)), generator=torch_generator(seed, "bootstrap"))
    parts, wholes = (values.double().cpu()[drawn].sum(1) for values in (parts_N, wholes_N))
    tail = (1 - LEVEL) / 2
    low, high = (parts / wholes).nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high
