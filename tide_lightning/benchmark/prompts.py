"""What steering starts from: prompts about one factor, their noise, and the tokens in which the factor will show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.benchmark.examples import in_patches
from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.grounds import About, Factor, Ground, Split

_TOUCHED = 0.1  # of a patch, from which on steering a region includes it


@dataclass(frozen=True)
class SteeringPrompts:
    """P prompts on which one factor is steered (see `Cases`), their noise, and which tokens are steered [P, T]."""

    factor: str
    prompts: list[str]
    changed: Sequence[list[str]]
    own: Tensor
    noise: Tensor
    tokens: Tensor

    def __len__(self) -> int:
        return len(self.prompts)


def steering_prompts(
    ground: Ground, denoiser: Denoiser, factor: str, about: About, split: Split, count: int, seed: int
) -> SteeringPrompts:
    """A ground's cases for a factor, with noise of their own; see `Ground.cases`."""
    cases = ground.cases(factor, about, split, count, seed)
    if cases.region is None:
        tokens = torch.ones(count, denoiser.num_tokens, dtype=torch.bool)
    else:
        tokens = in_patches(denoiser, cases.region) >= _TOUCHED
    noise = denoiser.noise(seed, "canvas", split, factor, numbers=range(count))
    return SteeringPrompts(
        factor=factor,
        prompts=cases.prompts,
        changed=cases.changed,
        own=cases.own.to(denoiser.device),
        noise=noise.to(denoiser.device),
        tokens=tokens.to(denoiser.device),
    )


def parse_targets(factors: Mapping[str, Factor], texts: Sequence[str]) -> dict[str, list[int]]:
    """Read "factor:value", or "factor" for all of its values, into numbers of values by factor."""
    targets: dict[str, list[int]] = {}
    for text in texts:
        factor, _, value = text.partition(":")
        if factor not in factors or (value and value not in factors[factor].values):
            known = ", ".join(factors[factor].values if factor in factors else factors)
            raise UserError(f"steer: this ground knows no {text!r}; choose of {known}")
        values = factors[factor].values
        chosen = [values.index(value)] if value else list(range(len(values)))
        targets[factor] = list(dict.fromkeys([*targets.get(factor, []), *chosen]))
    return targets
