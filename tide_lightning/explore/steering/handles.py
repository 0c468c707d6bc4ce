"""Which latents cause what two lists of prompts differ in: found by words alone.

Two things make a latent a handle. It fires with the one list and not with the other (it knows the difference), and
raising it moves the denoiser's prediction from the other list's towards the one's (it makes the difference). Many
latents that only know it do nothing; so both are measured, the second for all latents at once by one backward pass.

Shapes: N pairs of prompts, T tokens, D channels, F latents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, sample
from tide_lightning.intervene.splicing import Predictor, splice_denoiser
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import Half, TokenBatch


class Handle(NamedTuple):
    """A latent to steer by.

    Fields:
        site: whose SAE.
        latent: its number.
        score: `knows` squared times `makes`.
        knows: by how many standard deviations its mean value differs between the two lists.
        makes: how far raising it where it lives moves the prediction the right way, for a push of unit length.
        home: where it lives [T]: at these places it is at least half as active as where it is most.
    """

    site: str
    latent: int
    score: float
    knows: float
    makes: float
    home: Tensor


class _Seen(NamedTuple):
    """What was seen along trajectories of one list.

    Fields:
        activity: of each site's latents, averaged over the steps that count [N, T, F].
        moments: x_t and raw_t of these steps.
    """

    activity: dict[str, Tensor]
    moments: list[tuple[Tensor, Tensor]]


def find_handles(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    wanted: Sequence[str],
    unwanted: Sequence[str],
    initial_noise: Tensor,
    *,
    num_inference_steps: int = 10,
    guidance_scale: float = 4.5,
    early: float = 0.6,
    count: int = 10,
) -> list[Handle]:
    """The best latents of all sites for turning what the unwanted prompts say into what the wanted ones say.

    Args:
        denoiser: the frozen denoiser.
        saes: by site.
        wanted: prompts that say it.
        unwanted: the counterpart of each, best with few words changed.
        initial_noise: of each pair [N, *latent_shape].
        num_inference_steps: of the trajectories on which is measured.
        guidance_scale: of these.
        early: the share of their steps, from noise on, that counts: images are decided early.
        count: how many handles.
    """
    steps = max(1, round(early * num_inference_steps))
    own, other = (
        _see(denoiser, saes, prompts, initial_noise, num_inference_steps, guidance_scale, steps)
        for prompts in (wanted, unwanted)
    )
    slopes = _slopes(denoiser, saes, wanted, unwanted, other.moments)
    handles = []
    for site in saes:
        place_TF = own.activity[site].mean(0)
        home_TF = (place_TF > place_TF.amax(0) / 2).float()
        makes = (slopes[site] * home_TF).sum(0) / home_TF.sum(0).clamp_min(1).sqrt()
        knows = _contrast(own.activity[site].mean(1), other.activity[site].mean(1)).clamp_min(0)
        score = knows.square() * makes
        for latent in score.topk(min(count, len(score))).indices.tolist():
            figures = float(score[latent]), float(knows[latent]), float(makes[latent])
            handles.append(Handle(site, latent, *figures, home_TF[:, latent].bool()))
    return sorted(handles, key=lambda handle: -handle.score)[:count]


def _contrast(own_NF: Tensor, other_NF: Tensor) -> Tensor:
    """Difference of means in standard deviations [F]; latents that hardly ever fire do not look certain."""
    spread = torch.cat([own_NF, other_NF]).std(0)
    return (own_NF.mean(0) - other_NF.mean(0)) / (spread + 1e-3 * spread.max() + 1e-12)


@torch.no_grad()
def _see(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    prompts: Sequence[str],
    noise: Tensor,
    num_inference_steps: int,
    guidance_scale: float,
    steps: int,
) -> _Seen:
    activity: dict[str, Tensor] = {}
    moments: list[tuple[Tensor, Tensor]] = []

    @contextmanager
    def note(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        moments.append((x_t[-len(prompts) :], raw_t[-len(prompts) :]))  # of both halves the conditional one
        yield

    def look(site: str, sae: SAE) -> Predictor:
        def predict(tokens: TokenBatch) -> Tensor:
            if len(moments) <= steps:
                some = tokens.select(tokens.half == int(Half.CONDITIONAL))
                dense = sae.encode(some.x, some.context).to_dense().float() / steps
                activity[site] = activity.get(site, 0) + dense.reshape(len(prompts), -1, sae.d_sae)
            return tokens.x

        return predict

    looks = {site: look(site, sae) for site, sae in saes.items()}
    watched = splice_denoiser(denoiser.within(note), looks, {site: sae.shape for site, sae in saes.items()})
    settings = {"num_inference_steps": num_inference_steps, "guidance_scale": guidance_scale}
    sample(watched, prompts, initial_noise=noise, **settings)  # type: ignore[arg-type]
    return _Seen(activity, moments[:steps])


def _slopes(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    wanted: Sequence[str],
    unwanted: Sequence[str],
    moments: Sequence[tuple[Tensor, Tensor]],
) -> dict[str, Tensor]:
    """How far raising each latent at each place moves the prediction from the unwanted towards the wanted [T, F]."""
    to, of = denoiser.encode_prompts(wanted), denoiser.encode_prompts(unwanted)
    total: dict[str, Tensor] = {}
    for x_t, raw_t in moments:
        with torch.no_grad():
            towards = (denoiser.predict(x_t, raw_t, to) - denoiser.predict(x_t, raw_t, of)).flatten(1)
        towards = torch.nn.functional.normalize(towards, dim=1)
        for site, (gradient, tokens) in _gradients(denoiser, saes, x_t, raw_t, of, towards).items():
            # All samples are at one t, so what a latent adds depends on its place alone.
            mean_TD = gradient.reshape(len(x_t), -1, gradient.shape[1]).mean(0)
            slopes = _along_latents(saes[site], mean_TD, tokens.select(slice(len(mean_TD))))
            total[site] = total.get(site, 0) + slopes / len(moments)
    return total


def _gradients(
    denoiser: Denoiser,
    saes: Mapping[str, SAE],
    x_t: Tensor,
    raw_t: Tensor,
    conditioning: Conditioning,
    towards: Tensor,
) -> dict[str, tuple[Tensor, TokenBatch]]:
    """Gradient of the prediction along a direction with respect to each site's tokens [B, D], and the tokens."""
    seen: dict[str, tuple[Tensor, TokenBatch]] = {}

    def pushed(site: str) -> Predictor:
        def predict(tokens: TokenBatch) -> Tensor:
            push = torch.zeros_like(tokens.x, requires_grad=True)
            seen[site] = push, tokens
            return tokens.x + push

        return predict

    with torch.enable_grad():
        twin = splice_denoiser(
            denoiser, {site: pushed(site) for site in saes}, {s: sae.shape for s, sae in saes.items()}
        )
        along = (twin.predict(x_t, raw_t, conditioning).flatten(1) * towards).sum()
        gradients = torch.autograd.grad(along, [push for push, _ in seen.values()])
    return {site: (one, seen[site][1]) for site, one in zip(seen, gradients, strict=True)}


def _along_latents(sae: SAE, gradient: Tensor, tokens: TokenBatch) -> Tensor:
    """The gradient along what an edit's amount of each latent adds [B, F]: of decoding, which is affine."""
    with torch.enable_grad():
        amounts = torch.zeros(len(tokens), sae.d_sae, device=gradient.device, requires_grad=True)
        latents = torch.arange(sae.d_sae, device=gradient.device).repeat(len(tokens), 1)
        code = SparseCode(amounts * sae.unit_at(tokens.t), latents, sae.d_sae)
        (along,) = torch.autograd.grad((sae.decode(code, tokens.context) * gradient).sum(), amounts)
    return along
