"""Ways to push a site's tokens towards each factor value, learned from labelled training images.

Shapes: N images, T tokens, D channels, L latents.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from tide_lightning.benchmark.examples import Examples, groups, questions
from tide_lightning.benchmark.meaning import Pooled
from tide_lightning.benchmark.probes import fit_logistic
from tide_lightning.evaluation.scores import auroc
from tide_lightning.intervene import Edit, Shift
from tide_lightning.saes import SAE


@dataclass(frozen=True)
class Push:
    """What is added to one site's tokens [N, T]: a latent's value raised by an amount [N], and a vector [N, D]."""

    latent: Tensor
    amount: Tensor
    vector: Tensor
    tokens: Tensor

    def edits(self, site: str, window: tuple[float, float], index: slice) -> list[Edit | Shift]:
        """The pushes of some images."""
        latent, amount, vector, tokens = (getattr(self, field.name)[index] for field in fields(self))
        return [Edit(site, latent, "add", amount, window, tokens), Shift(site, vector, window, tokens)]

    @staticmethod
    def concatenate(parts: list[Push]) -> Push:
        """All pushes in order."""
        return Push(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Push)))


BEYOND_KNOWN = "beyond_known"
"""The pooled feature of that name: see `beyond.py`."""


class Directions(NamedTuple):
    """One site's ways to push, learned from labelled training images.

    All but the latents are the same for all SAEs of a site.

    Fields:
        site: where.
        sae: its own.
        latents: the best one for each factor value.
        aurocs: its AUROC on the training images.
        lengths: how far each factor value moves its units: of the difference of means with and without it, of what the
            common known part leaves of activations.
        vectors: for each factor value the unit vectors of the directions that are no latent's, by method: `dense`, the
            difference of means of activations; `dense_beyond_known`, of what the common known part leaves of them;
            `supervised`, the weights of a logistic regression on the latter.
        alive: latents that fire on those images [L].
    """

    site: str
    sae: SAE
    latents: dict[tuple[str, str], int]
    aurocs: dict[tuple[str, str], float]
    lengths: dict[tuple[str, str], float]
    vectors: dict[tuple[str, str], dict[str, Tensor]]
    alive: Tensor


def learn_directions(
    site: str,
    sae: SAE,
    examples: Examples,
    pooled: Pooled,
    repeats: int,
) -> Directions:
    """Choose latents and directions on the readings of the bins of t that are steered in, joined."""
    latents, aurocs, lengths = {}, {}, {}
    vectors: dict[tuple[str, str], dict[str, Tensor]] = {}
    codes, dense, left = (pooled[name].flatten(0, 1) for name in ("codes", "dense", BEYOND_KNOWN))
    for group in groups(examples.ground.factors):
        units, labels = examples.units(group, repeats)
        probe = fit_logistic(left[units][None], labels[None])
        weights_VD = (probe.weight[0, :-1] / probe.scale[0].T).T.float()
        found, best = auroc(codes[units], labels).nan_to_num(0.5).max(1)
        for number, question in enumerate(questions(group)):
            has = labels[:, number]
            latents[question], aurocs[question] = int(best[number]), float(found[number])
            # A value that no training image shows has no direction; a push by zeros does nothing.
            is_shown = bool(has.any()) and not bool(has.all())
            directions = {
                "dense": dense[units][has].mean(0) - dense[units][~has].mean(0),
                "dense_beyond_known": left[units][has].mean(0) - left[units][~has].mean(0),
                "supervised": weights_VD[number],
            }
            lengths[question] = float(directions["dense_beyond_known"].norm()) if is_shown else 0.0
            vectors[question] = {
                name: normalize(direction, dim=0) if is_shown else torch.zeros_like(direction)
                for name, direction in directions.items()
            }
    alive = (codes > 0).any(0).nonzero().squeeze(1)
    return Directions(site, sae, latents, aurocs, lengths, vectors, alive)
