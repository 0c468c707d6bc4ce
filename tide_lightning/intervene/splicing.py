"""Splicing: the denoiser runs with what an SAE (or a cheaper predictor) makes of its own activations.

Everything that a splice is told, it can work out from what the denoiser is given, now and at earlier steps: timestep,
place and input. So it acts in any forward alike: one noised batch, both halves of a guided one, a whole trajectory.

Shapes: N samples, T tokens, D channels, P numbers in a patch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Layout, Site, token_context, unlabelled
from tide_lightning.diffusion.denoiser import Around
from tide_lightning.saes import LEAKING, SAE
from tide_lightning.tokens import Half, Source, TokenBatch

Predictor = Callable[[TokenBatch], Tensor]
"""Makes x_hat [B, D] of a site's tokens."""

ALL = "all"
"""The name of the case with every site spliced at once."""


def splice_denoiser(denoiser: Denoiser, predictors: Mapping[str, Predictor]) -> Denoiser:
    """The denoiser with its sites replaced in every forward; it shares weights and prompts with the original."""
    return denoiser.within(splicing(denoiser, predictors))


def splicing(denoiser: Denoiser, predictors: Mapping[str, Predictor]) -> Around:
    """What has to be entered for a forward, so that the sites are replaced in it; arguments as above."""
    by_site = {Site.parse(name): predictor for name, predictor in predictors.items()}

    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> AbstractContextManager[None]:
        unread = unread_tokens(denoiser, by_site, x_t, raw_t, conditioning)
        return denoiser.splice({site: _replacement(predictor, unread[site]) for site, predictor in by_site.items()})

    return around


def unread_tokens(
    denoiser: Denoiser, sites: Iterable[Site], x_t: Tensor, raw_t: Tensor, conditioning: Conditioning
) -> dict[Site, TokenBatch]:
    """Each site's tokens in a forward on x_t [N, ...] at raw_t [N], with activations still to come.

    Sites of one layout share theirs.
    """
    layouts = {site: denoiser.layout(site) for site in sites}
    unread = {layout: _unread(denoiser, layout, x_t, raw_t, conditioning) for layout in set(layouts.values())}
    return {site: unread[layout] for site, layout in layouts.items()}


def _unread(denoiser: Denoiser, layout: Layout, x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> TokenBatch:
    num_tokens = layout.num_tokens
    raw_B = raw_t.float().repeat_interleave(num_tokens)
    return TokenBatch(
        x=raw_B.new_zeros(len(raw_B), 0),
        context=token_context(denoiser, layout, x_t, raw_t, conditioning),
        raw_t=raw_B,
        sample=torch.arange(len(x_t), device=x_t.device).repeat_interleave(num_tokens),
        half=_halves(x_t, conditioning).repeat_interleave(num_tokens),
        source=torch.full_like(raw_B, int(Source.NOISE), dtype=torch.int8),
    )


def _halves(x_t: Tensor, conditioning: Conditioning) -> Tensor:
    """Each sample's half [N]; a forward that is not said to be guided is conditional."""
    half = torch.full((len(x_t),), int(Half.CONDITIONAL), dtype=torch.int8, device=x_t.device)
    return (
        half if conditioning.unconditional is None else half.masked_fill(conditioning.unconditional, Half.UNCONDITIONAL)
    )


def reconstruct_by(sae: SAE) -> Predictor:
    """The SAE's reconstruction."""

    def predict(tokens: TokenBatch) -> Tensor:
        x_hat: Tensor = sae(tokens).x_hat
        return x_hat

    return predict


def known_alone(sae: SAE) -> Predictor:
    """The SAE's known part without any latent."""

    def predict(tokens: TokenBatch) -> Tensor:
        known: Tensor = sae.known(tokens.context)
        return known.expand(len(tokens), -1)

    return predict


def constant(mean: Tensor) -> Predictor:
    """The same vector [D] for every token."""
    return lambda tokens: mean.expand(len(tokens), -1)


def splice_cases(sites: Iterable[str]) -> dict[str, list[str]]:
    """The sites that are spliced at once, by a case's name: each alone, and all of several that have one SAE each."""
    sites = list(sites)
    cases = {site: [site] for site in sites}
    if len(set(map(unlabelled, sites))) == len(sites) > 1:
        cases[ALL] = sites
    return cases


def why_not(sae: SAE) -> str | None:
    """The reason why an SAE must not be spliced, if there is one."""
    if sae.known.rung in LEAKING:
        return (
            f"known_part {sae.known.rung} uses the true noise, part of the denoiser's target: for reading features only"
        )
    return None


def _replacement(predictor: Predictor, context: TokenBatch) -> Callable[[Tensor], Tensor]:
    def replace_value(x_NTD: Tensor) -> Tensor:
        tokens = replace(context, x=x_NTD.float().flatten(0, 1))
        return predictor(tokens).reshape(x_NTD.shape)

    return replace_value
