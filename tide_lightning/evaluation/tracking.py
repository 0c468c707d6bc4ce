"""The same feature, followed along real trajectories and from block to block.

While the original images are sampled, the sites' activations are encoded at some steps and places of every image.
So each token is known at each of those times and in each block, and latents can be compared by firing on the same
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.evaluation.matching import (
    Best,
    Firings,
    best_by_direction,
    best_by_firing,
    directions,
    random_like,
)
from tide_lightning.intervene.recording import Forward, recorded
from tide_lightning.intervene.splicing import why_not
from tide_lightning.reduction import is_distributed
from tide_lightning.saes import SAE

MAX_TIMES, MAX_PLACES = 10, 64
"""Of a trajectory and of an image at which tokens are encoded, evenly spread."""

MIN_FIRINGS = 20
"""Tokens on which a latent must have fired to be matched by firing."""

SAME = 0.7
"""The cosine of directions from which on two latents count as the same feature."""

_FAR = 2**24  # more tokens than are followed
_MAX_PAIRS = 20_000_000  # of entries of two codes that are compared; beyond it, fewer tokens are


class Tracker:
    """Encodes tokens along sampled trajectories; SAEs that need the true noise are left out."""

    def __init__(self, saes: Mapping[str, SAE], num_steps: int) -> None:
        self.saes = {site: sae for site, sae in saes.items() if why_not(sae) is None}
        times = min(MAX_TIMES, num_steps)
        self._steps = {number * (num_steps - 1) // max(times - 1, 1) for number in range(times)}
        self._keys: dict[str, dict[float, list[Tensor]]] = {site: {} for site in self.saes}

    def follow(self, denoiser: Denoiser, numbers: range) -> Denoiser:
        """The denoiser that samples these images, with its tokens encoded at some of a trajectory's steps."""
        seen: list[float] = []

        def take(forward: Forward) -> None:
            t = float(forward.t[0])
            if t in seen:  # some schedulers ask twice
                return
            seen.append(t)
            if len(seen) - 1 in self._steps:
                for key in self.saes:
                    self._keys[key].setdefault(t, []).append(self._encoded(key, forward, numbers))

        return recorded(denoiser, self.saes, take)

    def compute(self) -> dict[str, Any]:
        """The entry `tracking` of metrics.json; call on every rank."""
        keys = self._gathered()
        found: dict[str, Any] = {"over_time": {}, "over_blocks": []}
        rows = {site: directions(sae).cpu() for site, sae in self.saes.items()}
        for site, sae in self.saes.items():
            by_time = {t: firings(keys[site][t], sae.d_sae) for t in sorted(keys[site], reverse=True)}
            found["over_time"][site] = over_time(by_time, rows[site])
        for a, b in self._neighbours():
            if self.saes[a].shape.grid == self.saes[b].shape.grid:
                here, there = (self._all_times(keys[site], site) for site in (a, b))
                found["over_blocks"].append({"from": a, "to": b, **over_blocks(here, there, rows[a], rows[b])})
        return found

    def _neighbours(self) -> Iterator[tuple[str, str]]:
        """Each site and the next one; of several SAEs of a site, those of one label."""
        by_label: dict[str, list[str]] = {}
        for site in self.saes:
            by_label.setdefault(site.removeprefix(unlabelled(site)), []).append(site)
        for sites in by_label.values():
            yield from pairwise(sites)

    def _all_times(self, keys: Mapping[float, Tensor], site: str) -> Firings:
        """A token at two times counts as two."""
        num_latents = self.saes[site].d_sae
        apart = _FAR * num_latents
        return firings(torch.cat([keys[t] + number * apart for number, t in enumerate(sorted(keys))]), num_latents)

    def _encoded(self, key: str, forward: Forward, numbers: range) -> Tensor:
        """Which latent fires on which token, as token * F + latent, ascending; tokens are numbered over all images."""
        sae = self.saes[key]
        per_image = math.prod(sae.shape.grid)
        places = torch.arange(min(per_image, MAX_PLACES)) * per_image // min(per_image, MAX_PLACES)
        index = (torch.arange(len(numbers))[:, None] * per_image + places).flatten()
        some = forward.tokens[unlabelled(key)].select(index.to(forward.t.device))
        code = sae.encode(some.x, some.context)
        fires = code.values.flatten() > 0
        token = (numbers.start * len(places) + code.tokens()[fires]).cpu()
        return (token * sae.d_sae + code.indices.flatten()[fires].cpu()).sort().values

    def _gathered(self) -> dict[str, dict[float, Tensor]]:
        """All ranks' tokens, in order."""
        mine = {site: {t: torch.cat(parts) for t, parts in by_time.items()} for site, by_time in self._keys.items()}
        ranks = [mine]
        if is_distributed():
            ranks = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(ranks, mine)
        joined: dict[str, dict[float, Tensor]] = {}
        for site in self.saes:
            times = {t for rank in ranks for t in rank.get(site, {})}
            parts = {t: [rank[site][t] for rank in ranks if t in rank.get(site, {})] for t in times}
            joined[site] = {t: torch.cat(some).sort().values for t, some in parts.items()}
        return joined


def firings(keys: Tensor, num_latents: int) -> Firings:
    """From token * F + latent, ascending."""
    return Firings(keys // num_latents, keys % num_latents, num_latents)


def over_time(by_time: Mapping[float, Firings], rows_FD: Tensor) -> dict[str, Any]:
    """How long latents stay on their tokens, from noise to image, and who takes over from them."""
    times, parts = list(by_time), list(by_time.values())
    num_tokens = 1 + max((int(part.token.max()) for part in parts if len(part.token)), default=0)
    counts = [part.counts() for part in parts]
    stays = [[_share(a.both(b).sum(), len(a.token)) for b in parts] for a in parts]
    chance = [[_share((here * there).sum() / num_tokens, int(here.sum())) for there in counts] for here in counts]
    steps = []
    for (t, a), (after, b) in pairwise(by_time.items()):
        ours, partner = _matchable(a, b)
        itself = a.both(b)[ours] / (a.counts() + b.counts() - a.both(b)).clamp(min=1)[ours]
        other = partner.partner[ours] != ours
        steps.append(
            {
                "from": t,
                "to": after,
                "latents": len(ours),
                "jaccard_itself": _mean(itself),
                "jaccard_best": _mean(partner.score[ours]),
                "stays_itself": _mean(~other),
                "cosine_of_successor": _mean((rows_FD[ours[other]] * rows_FD[partner.partner[ours[other]]]).sum(1)),
            }
        )
    return {"tokens": num_tokens, "times": times, "stays": stays, "chance": chance, "steps": steps}


def over_blocks(a: Firings, b: Firings, rows_a: Tensor, rows_b: Tensor) -> dict[str, Any]:
    """How many latents of one block are found again in another, on the same tokens and in the same directions."""
    per_token = max(1.0, len(a.token) * len(b.token) / max(1, len(a.token.unique())))
    some = max(1, round(per_token / _MAX_PAIRS))
    a, b = (
        Firings(part.token[part.token % some == 0], part.latent[part.token % some == 0], part.num_latents)
        for part in (a, b)
    )
    ours, by_firing = _matchable(a, b)
    found: dict[str, Any] = {"latents": len(ours), "jaccard": _mean(by_firing.score[ours])}
    found["jaccard_chance"] = _mean(best_by_firing(a, _on_other_tokens(b)).score[ours])
    if rows_a.shape[1] == rows_b.shape[1]:
        by_direction = best_by_direction(rows_a, rows_b)
        found |= {
            "cosine": _mean(by_direction.score[ours]),
            "cosine_chance": _mean(best_by_direction(random_like(rows_a[:_MAX_RANDOM]), rows_b).score),
            "same_direction": _mean(by_direction.score[ours] >= SAME),
            "agree": _mean(by_direction.partner[ours] == by_firing.partner[ours]),
        }
    return found


_MAX_RANDOM = 1024


def _matchable(a: Firings, b: Firings) -> tuple[Tensor, Best]:
    ours = (a.counts() >= MIN_FIRINGS).nonzero().squeeze(1)
    return ours, best_by_firing(a, b)


def _on_other_tokens(firings_b: Firings) -> Firings:
    """The same codes, each on another token that has one: what firing together is worth by chance."""
    tokens, place = firings_b.token.unique(return_inverse=True)
    moved = tokens[torch.randperm(len(tokens), generator=torch.Generator().manual_seed(0))][place]
    order = moved.argsort(stable=True)
    return Firings(moved[order], firings_b.latent[order], firings_b.num_latents)


def _share(part: Tensor, whole: int) -> float:
    return float(part) / whole if whole else float("nan")


def _mean(values: Tensor) -> float:
    return float(values.double().mean()) if len(values) else float("nan")
