"""Two ways to ask a denoiser for the same image, and which latents make the difference.

From the same noise, at the same step of the same trajectory, the denoiser is given one prompt and another. What differs
then is due to the words alone. A latent that differs may still be a mere witness; so those that differ most are put to
the test: their difference alone is added to the site's tokens under the other prompt, and counts by how far the
prediction then goes where the words would have taken it.

Shapes: N samples, T tokens, B = N T, F latents, P places, K candidates, D channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Site, sample, unlabelled
from tide_lightning.diffusion.counters import normal, stream
from tide_lightning.intervene.splicing import site_context
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenBatch

_PUSH = 0.4  # how far candidates move tokens in the test, as a share of how far tokens are from their mean


class Moment(NamedTuple):
    """One forward's input.

    Fields:
        x_t: [N, *latent_shape].
        raw_t: [N].
        trajectory_noise: the noise in x_t as the trajectory tells it, on one.
    """

    x_t: Tensor
    raw_t: Tensor
    trajectory_noise: Tensor | None = None

    def asked(self, conditioning: Conditioning) -> tuple[Tensor, Tensor, Conditioning]:
        """What the denoiser is called with, to ask for what a conditioning says."""
        return self.x_t, self.raw_t, conditioning.along(self.trajectory_noise)


@dataclass(frozen=True)
class Case:
    """What is asked for: prompts, and the moments at which they are asked.

    Args:
        prompts: one a sample.
        moments: the same number for all cases that are compared.
    """

    prompts: Sequence[str]
    moments: Sequence[Moment]


@dataclass(frozen=True)
class Difference:
    """How one site's codes differ between a case and its rivals.

    Args:
        contrast: by how much more a latent fires for the case than for the rival nearest to it, in the mean over
            tokens and moments [F].
        level: mean value where it fires for the case, in the unit of edits' amounts (`SAE.unit_at`) [F].
        places: the difference at each place [F, P].
    """

    contrast: Tensor
    level: Tensor
    places: Tensor


def moments_of(
    denoiser: Denoiser,
    prompts: Sequence[str],
    window: tuple[float, float],
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
) -> list[Moment]:
    """Where guided trajectories of the prompts are while t is within the window."""
    found: list[Moment] = []

    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        t = float(denoiser.schedule.t(raw_t[:1]))
        if window[0] <= t <= window[1]:
            rows = slice(-len(prompts), None)  # of both halves the conditional one
            found.append(Moment(x_t[rows], raw_t[rows], conditioning.select(rows).trajectory_noise))
        return nullcontext()

    sample(
        denoiser.within(around),
        prompts,
        seed=seed,
        num_inference_steps=num_inference_steps,
        guidance_scale=guidance_scale,
    )
    return found


def noised_moments(denoiser: Denoiser, x0: Tensor, times: Sequence[float], seed: int) -> list[Moment]:
    """A clean latent [1, *latent_shape] noised at some times, the n-th always by the same noise."""
    found = []
    for number, t in enumerate(times):
        raw_t = denoiser.schedule.raw_t(torch.tensor([t], device=x0.device))
        noise = normal(stream(seed, "example", number), denoiser.latent_shape).to(x0.device)
        found.append(Moment(denoiser.schedule.add_noise(x0, noise[None], raw_t), raw_t))
    return found


@torch.no_grad()
def differences(
    denoiser: Denoiser, saes: Mapping[str, SAE], case: Case, rivals: Sequence[Case], by_place: bool = True
) -> dict[str, Difference]:
    """Each SAE's difference between a case and its rivals.

    Args:
        denoiser: what is asked.
        saes: whose codes are compared.
        case: the one.
        rivals: the others.
        by_place: whether what a latent gains at one place may be lost at another; for images whose things stand at
            different places it must not count.
    """
    means = [_means(denoiser, saes, one) for one in (case, *rivals)]
    found = {}
    for key in saes:
        own, others = means[0][key], torch.stack([mean[key].values for mean in means[1:]]).amax(0)
        gained = own.values - others  # [P, F]
        contrast = gained.clamp(min=0).mean(0) if by_place else gained.mean(0)
        found[key] = Difference(contrast, own.level, gained.clamp(min=0).T)
    return found


@torch.no_grad()
def effects(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    candidates: Mapping[str, Sequence[int]],
    case: Case,
    rival: Case,
    num_moments: int = 2,
) -> dict[tuple[str, int], float]:
    """For each candidate the cosine of what it does to the prediction and what the case's words do, from -1 to 1."""
    sums = {(key, latent): torch.zeros(3, dtype=torch.float64) for key in saes for latent in candidates[key]}
    own, other = denoiser.encode_prompts(case.prompts), denoiser.encode_prompts(rival.prompts)
    chosen = range(0, len(case.moments), max(1, len(case.moments) // num_moments))
    for place in chosen:
        codes = [
            _codes(denoiser, saes, moment, conditioning)
            for moment, conditioning in ((case.moments[place], own), (rival.moments[place], other))
        ]
        moment = rival.moments[place]
        plain = denoiser.predict(*moment.asked(other))
        wanted = denoiser.predict(*case.moments[place].asked(own)) - plain
        for key, sae in saes.items():
            if not candidates[key]:
                continue
            latents = torch.tensor(list(candidates[key]), device=plain.device)
            gained_BK = (_columns(codes[0][key].code, latents) - _columns(codes[1][key].code, latents)).clamp(min=0)
            tokens = codes[1][key].tokens
            length = _PUSH * (tokens.x - tokens.x.mean(0)).norm(dim=1).mean()
            for number, latent in enumerate(candidates[key]):
                push = _push(sae, latent, gained_BK[:, number], tokens, length)
                with denoiser.splice({Site.parse(unlabelled(key)): _adding(push)}):
                    moved = denoiser.predict(*moment.asked(other)) - plain
                products = torch.stack([(moved * wanted).sum(), moved.square().sum(), wanted.square().sum()])
                sums[key, latent] += products.double().cpu()
    return {name: float(dot / (moved * wanted).sqrt().clamp(min=1e-20)) for name, (dot, moved, wanted) in sums.items()}


class _Mean(NamedTuple):
    values: Tensor  # [P, F]
    level: Tensor  # [F]


class _Codes(NamedTuple):
    tokens: TokenBatch
    code: SparseCode


def _means(denoiser: Denoiser, saes: Mapping[str, SAE], case: Case) -> dict[str, _Mean]:
    conditioning = denoiser.encode_prompts(case.prompts)
    sums: dict[str, Tensor] = {}
    amounts: dict[str, Tensor] = {}
    fired: dict[str, Tensor] = {}
    for moment in case.moments:
        for key, (tokens, code) in _codes(denoiser, saes, moment, conditioning).items():
            num_places = code.num_tokens // len(case.prompts)
            flat = code.tokens() % num_places * code.num_latents + code.indices.flatten()
            if key not in sums:
                sums[key] = torch.zeros(num_places * code.num_latents, device=flat.device)
                amounts[key], fired[key] = torch.zeros(2, code.num_latents, device=flat.device)
            sums[key].index_add_(0, flat, code.values.flatten().float())
            amounts[key].index_add_(0, code.indices.flatten(), saes[key].amounts(code, tokens.t))
            fired[key] += code.fired()
    count = len(case.prompts) * len(case.moments)
    found = {}
    for key, total in sums.items():
        level = amounts[key] / fired[key].clamp(min=1)
        found[key] = _Mean(total.view(-1, saes[key].d_sae) / count, level)
    return found


def _codes(
    denoiser: Denoiser, saes: Mapping[str, SAE], moment: Moment, conditioning: Conditioning
) -> dict[str, _Codes]:
    sites = [Site.parse(site) for site in dict.fromkeys(map(unlabelled, saes))]
    with denoiser.record(sites, stop_early=True) as values:
        denoiser.predict(*moment.asked(conditioning))
    found = {}
    for key, sae in saes.items():
        site = unlabelled(key)
        context = site_context(denoiser, sae.shape, *moment.asked(conditioning), Site.parse(site).stream)
        tokens = replace(context, x=values[site].float().flatten(0, 1))
        found[key] = _Codes(tokens, sae.encode(tokens.x, tokens.context))
    return found


def _columns(code: SparseCode, latents_K: Tensor) -> Tensor:
    """Some latents of a code, written out [B, K]."""
    column_F = torch.full((code.num_latents,), -1, device=latents_K.device)
    column_F[latents_K] = torch.arange(len(latents_K), device=latents_K.device)
    column_Z = column_F[code.indices.flatten()]
    kept = column_Z >= 0
    dense = torch.zeros(code.num_tokens, len(latents_K), device=latents_K.device)
    return dense.index_put_((code.tokens()[kept], column_Z[kept]), code.values.flatten()[kept].float())


def _push(sae: SAE, latent: int, gained_B: Tensor, tokens: TokenBatch, length: Tensor) -> Tensor:
    """What a latent adds where it gained, with a root mean square of `length` over the tokens [B, D]."""
    code = SparseCode(gained_B[:, None], torch.full_like(gained_B, latent, dtype=torch.int64)[:, None], sae.d_sae)
    added = sae.added(code, tokens.context)
    size = added.square().sum(1).mean().sqrt()
    return added * (length / size.clamp(min=1e-20)) if bool(size > 0) else added


def _adding(push_BD: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x_NTD: x_NTD + push_BD.view(x_NTD.shape).to(x_NTD.dtype)
