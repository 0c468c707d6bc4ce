"""Style: carry how one prompt or image looks over to another, and leave what it shows.

From the same noises, what latents do for the style's prompt (or on its noised image) is compared with what they do for
the prompt at hand, place by place and step by step. Latents whose difference is spread over much of the image make up
the style, those whose difference is gathered in a few places the content. The style's difference is added along a new
trajectory, in the prompt's half of each forward and once the layout stands; all else stays.

Shapes: N noises, S steps, T tokens, F latents, L latents of the style.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.intervene.recording import Forward, Walk, recorded
from tide_lightning.intervene.splicing import Predictor, splice_denoiser
from tide_lightning.intervene.steering import effect
from tide_lightning.saes import SAE
from tide_lightning.tokens import Half, TokenBatch


@dataclass(frozen=True)
class Style:
    """One site's style: its latents, and over what share of the places each one's difference is spread [L].

    `difference` is how much more they fire with the style [S, T, L], at steps of times t [S].
    """

    latents: Tensor
    extent: Tensor
    t: Tensor
    difference: Tensor


@torch.no_grad()
def separate_style(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    style: Walk,
    content: Walk,
    *,
    latents: Mapping[str, Sequence[int]] | None = None,
    least_extent: float = 0.5,
    count: int = 32,
) -> dict[str, Style]:
    """What makes up the style, at each site: where it is seen and where it is to go have as many samples and steps.

    Unless latents are chosen by hand, they are the `count` most different ones whose difference is spread over at least
    `least_extent` of the places.
    """
    found = {}
    for site, sae in saes.items():
        if latents is None:
            own, other = (_summed(denoiser, site, sae, walk) for walk in (style, content))
            chosen = _wide(own - other, least_extent, count)
        else:
            chosen = torch.tensor(list(latents.get(site, ())), dtype=torch.long)
        if len(chosen):
            (t, own), (_, other) = (_recorded(denoiser, site, sae, walk, chosen) for walk in (style, content))
            found[site] = Style(chosen, extent_of((own - other).sum(0)), t, own - other)
    if not found:
        raise UserError(
            f"style: no latent differs over at least {least_extent:g} of the image; name latents, or lower the extent"
        )
    return found


def extent_of(difference_TL: Tensor) -> Tensor:
    """Over what share of the places each difference is spread [L]: 1 if equal everywhere, 1 / T if at one place."""
    size_TL = difference_TL.abs()
    share = size_TL.sum(0).square() / size_TL.square().sum(0).clamp_min(1e-20) / len(size_TL)
    return torch.where(size_TL.sum(0) > 0, share, 0)


@contextmanager
def transfer_style(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    styles: Mapping[str, Style],
    *,
    strength: float = 1.0,
    window: tuple[float, float] = (0.0, 0.5),
) -> Iterator[Denoiser]:
    """A denoiser that draws in the style, `strength` times the difference added at the t of a window."""
    predictors = {site: _adding(saes[site], style, strength, window) for site, style in styles.items()}
    yield splice_denoiser(denoiser, predictors)


def _adding(sae: SAE, style: Style, strength: float, window: tuple[float, float]) -> Predictor:
    def predict(tokens: TokenBatch) -> Tensor:
        inside = (tokens.t >= window[0]) & (tokens.t <= window[1]) & (tokens.half == int(Half.CONDITIONAL))
        rows = inside.nonzero().squeeze(1)
        if not len(rows):
            return tokens.x
        some = tokens.select(rows)
        step = (some.t.unsqueeze(1) - style.t.to(some.t).unsqueeze(0)).abs().argmin(1)
        place = rows % style.difference.shape[1]
        values = strength * style.difference.to(some.x)[step, place]
        latents = style.latents.to(rows.device).expand(len(rows), -1)
        return tokens.x.index_copy(0, rows, some.x + effect(sae, latents, values, some).to(some.x.dtype))

    return predict


def _wide(difference_TF: Tensor, least_extent: float, count: int) -> Tensor:
    """The most different of those that differ widely."""
    size = torch.where(extent_of(difference_TF) >= least_extent, difference_TF.abs().sum(0), 0)
    values, latents = size.topk(min(count, len(size)))
    return latents[values > 0]


def _summed(denoiser: Denoiser, site: str, sae: SAE, walk: Walk) -> Tensor:
    """All steps' codes by place, the mean over samples [T, F]."""
    total = torch.zeros(math.prod(sae.shape.grid), sae.d_sae)

    def take(forward: Forward) -> None:
        total.add_(_by_place(forward.code(site, sae).to_dense(), len(total)))

    walk(recorded(denoiser, {site: sae}, take))
    return total


def _recorded(denoiser: Denoiser, site: str, sae: SAE, walk: Walk, latents: Tensor) -> tuple[Tensor, Tensor]:
    """Times [S], and some latents' mean over samples at each step and place [S, T, L]."""
    times: list[Tensor] = []
    means: list[Tensor] = []

    def take(forward: Forward) -> None:
        dense = forward.code(site, sae).to_dense()[:, latents.to(forward.t.device)]
        means.append(_by_place(dense, math.prod(sae.shape.grid)))
        times.append(forward.t[:1].cpu())

    walk(recorded(denoiser, {site: sae}, take))
    return torch.cat(times), torch.stack(means)


def _by_place(dense_BL: Tensor, num_places: int) -> Tensor:
    """Mean over samples [T, L]."""
    mean: Tensor = dense_BL.float().unflatten(0, (-1, num_places)).mean(0)
    return mean.cpu()
