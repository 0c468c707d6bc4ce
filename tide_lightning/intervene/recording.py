"""What SAEs see while a denoiser runs: the tokens of its forwards, and what latents do along whole trajectories.

Recording changes no bit of what is predicted. Of a guided forward the prompt's (conditional) half is recorded.

Shapes: N images, S forwards of a trajectory, T tokens, F latents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion import Conditioning, Denoiser, Site, sample, unlabelled
from tide_lightning.intervene.splicing import unread_tokens
from tide_lightning.saes import SAE, SparseCode
from tide_lightning.tokens import TokenBatch


class Forward(NamedTuple):
    """One forward on N samples, as SAEs see it.

    Fields:
        x_t: the denoiser's input [N, *latent_shape].
        raw_t: its timesteps [N].
        conditioning: what else it was given, N rows.
        t: normalised times [N].
        tokens: of each site, sample by sample [N T].
    """

    x_t: Tensor
    raw_t: Tensor
    conditioning: Conditioning
    t: Tensor
    tokens: dict[str, TokenBatch]

    def code(self, key: str, sae: SAE) -> SparseCode:
        """What an SAE makes of its site's tokens."""
        tokens = self.tokens[unlabelled(key)]
        return sae.encode(tokens.x, tokens.context)


def recorded(denoiser: Denoiser, saes: Mapping[str, SAE], take: Callable[[Forward], None]) -> Denoiser:
    """The denoiser, each of whose forwards is told to `take`.

    Args:
        denoiser: the original; steered, perhaps: what is recorded is what the edits left.
        saes: whose sites are read; their keys may bear labels.
        take: called after each forward.
    """
    sites = _sites(saes)

    @contextmanager
    def around(x_t: Tensor, raw_t: Tensor, conditioning: Conditioning) -> Iterator[None]:
        rows = torch.arange(len(x_t), device=x_t.device)
        if conditioning.unconditional is not None:
            rows = rows[~conditioning.unconditional]
        with denoiser.record(sites, select=lambda site, x_NTD: x_NTD[rows]) as values:
            yield
        take(_forward(denoiser, values, x_t[rows], raw_t[rows], conditioning.select(rows)))

    return denoiser.within(around)


@torch.no_grad()
def record(
    denoiser: Denoiser, saes: Mapping[str, SAE], x_t: Tensor, raw_t: Tensor, conditioning: Conditioning
) -> Forward:
    """One forward, which ends after the last of the SAEs' sites."""
    with denoiser.record(_sites(saes), stop_early=True) as values:
        denoiser.predict(x_t, raw_t, conditioning)
    return _forward(denoiser, values, x_t, raw_t, conditioning)


def _sites(saes: Mapping[str, SAE]) -> list[Site]:
    return [Site.parse(name) for name in dict.fromkeys(map(unlabelled, saes))]


def _forward(
    denoiser: Denoiser, values: Mapping[str, Tensor], x_t: Tensor, raw_t: Tensor, conditioning: Conditioning
) -> Forward:
    unread = unread_tokens(denoiser, map(Site.parse, values), x_t, raw_t, conditioning)
    tokens = {str(site): replace(some, x=values[str(site)].float().flatten(0, 1)) for site, some in unread.items()}
    return Forward(x_t, raw_t, conditioning, denoiser.schedule.t(raw_t), tokens)


Walk = Callable[[Denoiser], Tensor]
"""Takes N samples through a trajectory's times with a denoiser, and gives the latents that they end with."""


def walk_prompts(prompts: Sequence[str], initial_noise: Tensor, **settings: Any) -> Walk:
    """Guided trajectories of prompts, each from its own noise; settings are those of `diffusion.sample`."""
    return lambda denoiser: sample(denoiser, prompts, initial_noise=initial_noise, **settings)


def walk_image(image: Tensor, noise: Tensor, *, num_inference_steps: int) -> Walk:
    """An image [3, H, W] in [-1, 1] under each noise [N, *latent_shape], at a trajectory's times, without a prompt."""

    @torch.no_grad()
    def walk(denoiser: Denoiser) -> Tensor:
        x0 = denoiser.encode_images(image.unsqueeze(0)).expand(len(noise), *denoiser.latent_shape)
        blank = denoiser.encode_prompts([""] * len(noise))
        for timestep in denoiser.new_scheduler(num_inference_steps).timesteps:
            raw_t = denoiser.raw_t(timestep.to(x0.device)).expand(len(x0))
            denoiser.predict(denoiser.schedule.add_noise(x0, noise.to(x0), raw_t), raw_t, blank)
        return x0

    return walk


class Seen(NamedTuple):
    """What latents did on a walk.

    Fields:
        latents: the samples' in the end [N, *latent_shape].
        t: of each forward [S], falling.
        mean: of each SAE's latents over tokens [N, S, F], in the unit of edits' amounts.
        peak: their highest at any token [N, S, F], likewise.
    """

    latents: Tensor
    t: Tensor
    mean: dict[str, Tensor]
    peak: dict[str, Tensor]


@torch.no_grad()
def watch(denoiser: Denoiser, saes: Mapping[str, SAE], walk: Walk) -> Seen:
    """Walk, and look at every latent on the way; the denoiser may be steered, the SAEs' keys may bear labels."""
    times: list[Tensor] = []
    means: dict[str, list[Tensor]] = {key: [] for key in saes}
    peaks: dict[str, list[Tensor]] = {key: [] for key in saes}

    def take(forward: Forward) -> None:
        count = len(forward.x_t)
        times.append(forward.t[:1].cpu())
        for key, sae in saes.items():
            tokens, code = forward.tokens[unlabelled(key)], forward.code(key, sae)
            entries = code.tokens() // (len(tokens) // count) * sae.d_sae + code.indices.flatten()
            amounts = sae.amounts(code, tokens.t)
            blank = amounts.new_zeros(count * sae.d_sae)
            mean = blank.index_add(0, entries, amounts) * (count / len(tokens))
            means[key].append(mean.reshape(count, -1).cpu())
            peaks[key].append(blank.scatter_reduce(0, entries, amounts, "amax").reshape(count, -1).cpu())

    latents = walk(recorded(denoiser, saes, take))
    return Seen(
        latents,
        torch.cat(times),
        {key: torch.stack(some, 1) for key, some in means.items()},
        {key: torch.stack(some, 1) for key, some in peaks.items()},
    )
