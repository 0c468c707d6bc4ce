"""Where a factor value has no latent, why: does the denoiser have a handle for it at all, and what holds it?

A handle is one direction of a fixed length, added to a site's tokens, that makes the prediction for a prompt without
the value's word come near to that with it, on the same x_t. It is trained freely: no dictionary has a say. Then the
decoder's rows are asked: does one lie along it, do a few together, or none?

Shapes: P prompts, S steps, M = P S moments of trajectories, T tokens, D channels, F latents.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tide_lightning.benchmark.prompts import SteeringPrompts
from tide_lightning.diffusion import Conditioning, Denoiser, Site, sample
from tide_lightning.diffusion.counters import stream

Verdict = Literal["found", "no handle", "not selected", "split", "not learned"]
"""A latent tells the value; no direction works; a row lies along the handle, which no latent's firing shows; five rows
hold it together; no rows do."""

FOUND_F1 = 0.7
"""Of the best latent, from which on the value has one."""
WORKS = 0.3
"""Of the way from chance to always that a handle's images must reach the value."""
ALONG, TOGETHER = 0.5, 0.7
"""Cosines of a handle with one row, and with what five rows span, from which on they hold it."""
NUM_ROWS = 5


@dataclass(frozen=True)
class Moments:
    """Points of trajectories of prompts that do not mention a value, and what the denoiser says there.

    Args:
        x_t: inputs [M, *latent_shape].
        raw_t: their times [M].
        prompt: the number of each one's prompt [M].
        without: conditioning of all P prompts.
        wanted: the prediction for the prompt with the word [M, *latent_shape].
        apart: how far that is from the prediction without [M], a sum of squares.
        tokens: what is pushed [P, T].
    """

    x_t: Tensor
    raw_t: Tensor
    prompt: Tensor
    without: Conditioning
    wanted: Tensor
    apart: Tensor
    tokens: Tensor


@torch.no_grad()
def moments(
    denoiser: Denoiser, cases: SteeringPrompts, value: int, num_inference_steps: int, guidance_scale: float
) -> Moments:
    """Of the trajectories that prompts take which leave the factor open; predictions are the conditional half's."""
    count, seen = len(cases), []

    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        seen.append((x_t[-count:], raw_t[-count:]))  # the conditional half comes last
        return nullcontext()

    sample(
        denoiser.within(around),
        cases.prompts,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
        initial_noise=cases.noise,
    )
    without, asked = (denoiser.encode_prompts(prompts) for prompts in (cases.prompts, cases.changed[value]))
    pairs = [(denoiser.predict(x_t, raw_t, asked), denoiser.predict(x_t, raw_t, without)) for x_t, raw_t in seen]
    wanted, before = (torch.cat(parts).float() for parts in zip(*pairs, strict=True))
    return Moments(
        x_t=torch.cat([x_t for x_t, _ in seen]),
        raw_t=torch.cat([raw_t for _, raw_t in seen]),
        prompt=torch.arange(count, device=cases.tokens.device).repeat(len(seen)),
        without=without,
        wanted=wanted,
        apart=(wanted - before).square().flatten(1).sum(1),
        tokens=cases.tokens,
    )


def train_handle(
    denoiser: Denoiser,
    site: str,
    at: Moments,
    length: float,
    start: Tensor,
    *,
    steps: int = 80,
    batch_size: int = 16,
    lr: float = 0.03,
    seed: int = 0,
) -> Tensor:
    """The direction [D], of unit norm, by Adam on the part of the way that is left over.

    What is added is of a given length; `start` is a direction [D], a step sees `batch_size` moments.
    """
    direction = normalize(start.detach().float(), dim=0).clone().requires_grad_(True)
    optimiser = torch.optim.Adam([direction], lr=lr)
    draw = stream(seed, "handle", site)
    for step in range(steps):
        index = torch.from_numpy(draw.choice(len(at.raw_t), min(batch_size, len(at.raw_t)), replace=False))
        index = index.to(at.raw_t.device)
        with torch.enable_grad():
            loss = _left(denoiser, site, at, length * normalize(direction, dim=0), index)
            [direction.grad] = torch.autograd.grad(loss, [direction])
        for group in optimiser.param_groups:
            group["lr"] = lr * (1 - step / steps)
        optimiser.step()
    return normalize(direction.detach(), dim=0)


@torch.no_grad()
def way_covered(denoiser: Denoiser, site: str, at: Moments, vector: Tensor) -> float:
    """How much of the squared distance to the prediction with the word a push takes away; below 0 it adds to it."""
    parts = torch.arange(len(at.raw_t), device=at.raw_t.device).split(32)
    left = sum(float(_left(denoiser, site, at, vector, index)) * float(at.apart[index].sum()) for index in parts)
    return 1 - left / float(at.apart.sum())


def _left(denoiser: Denoiser, site: str, at: Moments, vector: Tensor, index: Tensor) -> Tensor:
    """The squared distance that is left of some moments, over what there was."""
    here_N = at.prompt[index]
    mask_NT1 = at.tokens[here_N].unsqueeze(2)

    def pushed(x_NTD: Tensor) -> Tensor:
        return x_NTD + mask_NT1.to(x_NTD.dtype) * vector.to(x_NTD.dtype)

    with denoiser.splice({Site.parse(site): pushed}):
        prediction = denoiser.predict(at.x_t[index], at.raw_t[index], at.without.select(here_N))
    return (prediction.float() - at.wanted[index]).square().sum() / at.apart[index].sum()


def held_by(direction: Tensor, rows_FD: Tensor, count: int) -> list[float]:
    """The cosine of a direction with what its best rows hold together, for one row, two, and so on.

    Rows are added one after another, the one along which most of the rest lies; their weights may not be negative, for
    latents are none.
    """
    rows, target = normalize(rows_FD.double(), dim=1), normalize(direction.double(), dim=0)
    chosen: list[int] = []
    found: list[float] = []
    left = target
    for _ in range(min(count, len(rows))):
        along = rows @ left
        along[chosen] = -torch.inf
        best = int(along.argmax())
        if not float(along[best]) > 0:
            found.append(found[-1] if found else 0.0)
            continue
        chosen.append(best)
        weights = _not_negative(rows[chosen], target)
        sum_D = weights @ rows[chosen]
        left = target - sum_D
        found.append(float(sum_D @ target / sum_D.norm().clamp_min(1e-12)))
    return found


def _not_negative(rows_KD: Tensor, target_D: Tensor, steps: int = 200) -> Tensor:
    """Least squares with weights of at least 0, by projected gradient [K]."""
    gram, moment = rows_KD @ rows_KD.T, rows_KD @ target_D
    size = 1 / float(torch.linalg.matrix_norm(gram, 2))
    weights = moment.clamp(min=0)
    for _ in range(steps):
        weights = (weights - size * (gram @ weights - moment)).clamp(min=0)
    return weights


def verdict(f1: float | None, beyond_chance: float, cosines: Sequence[float]) -> Verdict:
    """Which reason holds.

    `f1` is the best latent's, `beyond_chance` the success of the handle's images from 0 by chance to 1 always;
    `cosines` are those of the handle with one row, with two, and so on.
    """
    if f1 is not None and f1 >= FOUND_F1:
        return "found"
    if beyond_chance < WORKS:
        return "no handle"
    if cosines[0] >= ALONG:
        return "not selected"
    return "split" if cosines[-1] >= TOGETHER else "not learned"
