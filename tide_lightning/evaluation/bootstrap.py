"""Intervals by bootstrap: where a figure could lie, had other prompts, samples or seeds been drawn.

A draw says how often each unit (a prompt, a sample, an image, a seed) counts, independently for each: a Poisson number
of mean 1. It hangs on the unit's own number alone, so sums over units may be spread over batches and ranks, and two
SAEs that are measured on the same units see the same draws: their differences are paired.

Shapes: R = 1 + NUM_DRAWS rows, the first of which counts every unit once; N units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion.counters import stream, torch_generator

BRACKETS = "In brackets where 95 % of draws of other samples, prompts and seeds lie"
"""What tables with intervals say of them."""

NUM_DRAWS = 1000
LEVEL = 0.95
_WIDTH = 2 * 1.959964  # of a normal distribution's middle 95 %, in standard deviations


def drawn(numbers: Iterable[int], seed: int = 0) -> Tensor:
    """How often each unit counts in each draw [R, N] float64.

    Args:
        numbers: the units' own, each of which names its draws.
        seed: of all draws.
    """
    columns = [torch.from_numpy(stream(seed, "bootstrap", number).poisson(1.0, NUM_DRAWS)) for number in numbers]
    counts = torch.stack(columns, 1).double() if columns else torch.zeros(NUM_DRAWS, 0, dtype=torch.float64)
    return torch.cat([torch.ones_like(counts[:1]), counts])


def interval(values_R: Tensor) -> tuple[float, float]:
    """Where the middle 95 % of the draws lie, and the figure itself, the first row; NaN in a draw is passed over.

    Draws of a figure that is at its largest for the units as they are, such as a mean of F1 over values that are
    equally frequent, all lie below it.
    """
    tail = (1 - LEVEL) / 2
    ends = values_R[1:].double().cpu().nanquantile(torch.tensor([tail, 1 - tail], dtype=torch.float64))
    low, high = ends.tolist()
    itself = float(values_R[0])
    return (low, high) if math.isnan(itself) else (min(low, itself), max(high, itself))


def interval_of_ratio(parts_N: Tensor, wholes_N: Tensor, seed: int = 0) -> tuple[float, float]:
    """The interval of sum(parts) / sum(wholes), to which each unit adds its part and its whole."""
    counts = drawn(range(len(parts_N)), seed)
    return interval((counts @ parts_N.double().cpu()) / (counts @ wholes_N.double().cpu()))


class Estimate(NamedTuple):
    """The mean over so many repetitions, and the ends of its interval."""

    mean: float
    low: float
    high: float
    number: int

    def written(self, form: str) -> str:
        """The mean and, in brackets, its interval, where there is one; `%` is `.1%`."""
        form = ".1%" if form == "%" else form
        mean, low, high = (format(value, form) for value in self[:3])
        return mean if self.low == self.high else f"{mean} ({low} to {high})"


def over_seeds(
    values: Sequence[float], intervals: Sequence[tuple[float, float] | None] = (), seed: int = 0
) -> Estimate:
    """The mean over seeds, with an interval over seeds and, where each has an interval of its own, what it rests on.

    Seeds are drawn anew, and each one's value moves as its own interval says. With two or three seeds and no intervals
    of their own this is about their range; no bootstrap makes three seeds tell more.
    """
    known = torch.tensor(values, dtype=torch.float64)
    own = [0.0 if one is None else (one[1] - one[0]) / _WIDTH for one in intervals] or [0.0] * len(values)
    generator = torch_generator(seed, "bootstrap over seeds")
    chosen = torch.randint(len(values), (1 + NUM_DRAWS, len(values)), generator=generator)
    noise = torch.randn(chosen.shape, dtype=torch.float64, generator=generator)
    chosen[0], noise[0] = torch.arange(len(values)), 0.0
    low, high = interval((known[chosen] + noise * torch.tensor(own, dtype=torch.float64)[chosen]).mean(1))
    return Estimate(float(known.mean()), low, high, len(values))
