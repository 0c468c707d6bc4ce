"""How well numbers tell what is there from what is not: AUROC, F1, R^2, IoU, for many columns at once.

Shapes: U units (pooled tokens), F columns (latents), V yes-or-no questions (factor values). Sums in float64.
"""

from __future__ import annotations

import torch
from torch import Tensor

_CHUNK = 1024  # columns ranked at a time: ranks take 24 bytes an entry


def auroc(scores_UF: Tensor, labels_UV: Tensor) -> Tensor:
    """The chance that a unit with the value scores above one without, ties counting half [V, F].

    From ranks (Mann and Whitney); NaN where all units have a value, or none.
    """
    labels = labels_UV.double()
    positives_V1 = labels.sum(0).unsqueeze(1)
    negatives_V1 = len(labels) - positives_V1
    rank_sums = torch.cat([labels.T @ _ranks(part) for part in scores_UF.split(_CHUNK, dim=1)], 1)
    return (rank_sums - positives_V1 * (positives_V1 + 1) / 2) / (positives_V1 * negatives_V1)


def auroc_paired(scores_UV: Tensor, labels_UV: Tensor) -> Tensor:
    """AUROC of column v for question v [V]."""
    labels = labels_UV.double()
    positives = labels.sum(0)
    rank_sums = (labels * _ranks(scores_UV)).sum(0)
    return (rank_sums - positives * (positives + 1) / 2) / (positives * (len(labels) - positives))


def best_threshold(scores_UV: Tensor, labels_UV: Tensor) -> Tensor:
    """The threshold of the highest F1, and so of the highest IoU, of each column [V]; `score >= threshold` is yes.

    Thresholds lie between two scores where there are two, so that they do not hang on rounding.
    """
    ordered, order = scores_UV.double().sort(dim=0, descending=True)
    hits = labels_UV.double().gather(0, order).cumsum(0)
    said_yes = torch.arange(1, len(ordered) + 1, device=ordered.device, dtype=torch.float64).unsqueeze(1)
    f1 = 2 * hits / (said_yes + hits[-1])
    following = torch.cat([ordered[1:], ordered[-1:] - 1])
    f1 = f1.where(ordered != following, -1)  # equal scores are told apart by no threshold
    best = f1.argmax(0, keepdim=True)
    return ((ordered + following) / 2).gather(0, best).squeeze(0)


def f1_counts(scores_UV: Tensor, thresholds_V: Tensor, labels_UV: Tensor) -> tuple[Tensor, Tensor]:
    """Of each unit, whether it is a hit, and how often it is called or is positive: F1 = 2 sum(hits) / sum(said).

    Called is what scores at least its column's threshold.
    """
    yes, labels = scores_UV.double() >= thresholds_V, labels_UV.bool()
    return (yes & labels).double(), yes.double() + labels.double()


def iou_counts(yes: Tensor, labels: Tensor) -> tuple[int, int]:
    """Tokens in both masks and in either; their quotient is the IoU."""
    return int((yes & labels).sum()), int((yes | labels).sum())


def square_sums(predicted: Tensor, target: Tensor, mean: Tensor | float) -> tuple[float, float]:
    """Squared error and squared distance from `mean`; 1 minus their quotient is R^2."""
    target = target.double()
    return float((predicted.double() - target).square().sum()), float((target - mean).square().sum())


def _ranks(scores_UF: Tensor) -> Tensor:
    """Ranks from 1 within each column, equal scores sharing their mean rank [U, F] float64."""
    columns = scores_UF.T.contiguous()
    ordered = columns.sort(dim=1).values
    below = torch.searchsorted(ordered, columns)
    up_to = torch.searchsorted(ordered, columns, right=True)
    return (below + up_to + 1).double().T / 2
