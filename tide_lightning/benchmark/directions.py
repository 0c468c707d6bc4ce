"""Ways to push a site's tokens towards each factor value, learned from labelled training images.

Shapes: N images, T tokens, D channels, L latents.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.benchmark.examples import Examples, groups, questions
from tide_lightning.benchmark.meaning import Pooled
from tide_lightning.evaluation.scores import auroc
from tide_lightning.intervene import Edit, Shift
from tide_lightning.saes import SAE


@dataclass(frozen=True)
class Push:
    """What is added to one site's tokens, for each image of a batch.

    Args:
        latent: whose value is raised [N].
        amount: by how much [N].
        vector: added besides [N, D].
        tokens: where [N, T].
    """

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


class Directions(NamedTuple):
    """One site's ways to push, learned from labelled training images.

    Fields:
        site: where.
        sae: its own.
        latents: the best one for each factor value.
        aurocs: its AUROC on the training images.
        differences: for each factor value the difference of means with and without it [2, D]: of activations, and of
            what the known part leaves of them.
        alive: latents that fire on those images [L].
    """

    site: str
    sae: SAE
    latents: dict[tuple[str, str], int]
    aurocs: dict[tuple[str, str], float]
    differences: dict[tuple[str, str], Tensor]
    alive: Tensor


def learn_directions(
    site: str,
    sae: SAE,
    examples: Examples,
    pooled: Pooled,
    repeats: int,
) -> Directions:
    """Choose latents and mean differences on the readings of the bins of t that are steered in, joined."""
    latents, aurocs, differences = {}, {}, {}
    codes = pooled["codes"].flatten(0, 1)
    both_U2D = torch.stack([pooled["dense"], pooled["dense"] - pooled["known"]], 2).flatten(0, 1)
    for group in groups(examples.ground.factors):
        units, labels = examples.units(group, repeats)
        both = both_U2D[units]
        found, best = auroc(codes[units], labels).nan_to_num(0.5).max(1)
        for number, question in enumerate(questions(group)):
            has = labels[:, number]
            latents[question], aurocs[question] = int(best[number]), float(found[number])
            # A value that no training image shows has no direction; a push by zeros does nothing.
            is_shown = bool(has.any()) and not bool(has.all())
            differences[question] = both[has].mean(0) - both[~has].mean(0) if is_shown else torch.zeros_like(both[0])
    alive = (codes > 0).any(0).nonzero().squeeze(1)
    return Directions(site, sae, latents, aurocs, differences, alive)
