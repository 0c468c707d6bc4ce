"""Activations that are made of known ingredients."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tide_lightning.tokens import Sensitivity, SiteShape, TokenBatch, TokenContext

SHAPE = SiteShape(d_in=24, grid=(3, 4), d_input=6)


def tokens(num_tokens: int = 4000, seed: int = 0, **ingredients: float) -> TokenBatch:
    """Tokens whose activation is a weighted sum of a mean, drifts, places, the input and the noise.

    Args:
        num_tokens: how many.
        seed: of the draw; the ingredients' directions are the same for all seeds.
        ingredients: weight of each (mean, time, place, input, noise, rest); absent ones are 0.
    """
    fixed, draw = torch.Generator().manual_seed(99), torch.Generator().manual_seed(seed)
    d, p = SHAPE.d_in, SHAPE.d_input

    def directions(rows: int) -> Tensor:
        return torch.randn(rows, d, generator=fixed)

    t = torch.rand(num_tokens, generator=draw)
    position = torch.stack([torch.randint(0, size, (num_tokens,), generator=draw) for size in SHAPE.grid], 1)
    content = torch.randn(num_tokens, p, generator=draw)
    noise = torch.randn(num_tokens, p, generator=draw)
    place = position[:, 0] * SHAPE.grid[1] + position[:, 1]
    parts = {
        "mean": directions(1).expand(num_tokens, d),
        "time": t.unsqueeze(1) * directions(1),
        "place": directions(SHAPE.grid[0] * SHAPE.grid[1])[place],
        "input": (1 + t.unsqueeze(1)) * ((content + noise) @ directions(p)),
        "noise": noise @ directions(p),
        "rest": torch.randn(num_tokens, d, generator=draw),
    }
    x = torch.stack([ingredients.get(name, 0.0) * part for name, part in parts.items()]).sum(0)
    misjudged = 0.1 * torch.randn(num_tokens, p, generator=draw)
    kinds = torch.zeros(num_tokens, dtype=torch.int8)
    return TokenBatch(
        x=x,
        context=TokenContext(t, position, input=content + noise, noise=noise, trajectory_noise=noise + misjudged),
        raw_t=t * 1000,
        sample=torch.arange(num_tokens),
        half=kinds,
        source=kinds,
    )


def knowing(batch: TokenBatch, **changes: Tensor | None) -> TokenBatch:
    """The same tokens in another context."""
    return replace(batch, context=batch.context._replace(**changes))  # type: ignore[arg-type]  # but for t, None is allowed


def double(batch: TokenBatch) -> TokenBatch:
    """The same tokens in float64."""
    return batch.each(lambda value: value.double() if value.is_floating_point() else value)


def at_all_times(matrix: Tensor) -> Sensitivity:
    """A sensitivity that is the same at each t."""
    return Sensitivity(matrix.double(), torch.ones(20, dtype=torch.float64))
