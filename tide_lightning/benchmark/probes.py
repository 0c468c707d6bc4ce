"""Linear probes: logistic regression and ridge regression, many at once, without randomness.

Shapes: B designs, U units, K features, C targets. Everything in float64.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

L2 = 1e-2
"""Weight of the squared norm beside the mean loss of a unit; features are standardised first."""

_NUM_STEPS = 150  # by bounds
_MOST_STEPS, _MOST_HALVINGS = 50, 30  # of Newton's method, which takes some ten
_CONVERGED = 1e-10  # a step, of the largest weight
_ROUNDING = 1e-12  # of a loss


class Probe(NamedTuple):
    """Scores of standardised features.

    Fields:
        mean: of the features it was fitted on [B, 1, K].
        scale: their standard deviation [B, 1, K]; 1 for a constant feature.
        weight: [B, K + 1, C], the intercept last.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor

    def __call__(self, features_BUK: Tensor) -> Tensor:
        """Scores [B, U, C]: log-odds of a logistic probe, values of a ridge."""
        features = (features_BUK.double() - self.mean) / self.scale
        return features @ self.weight[:, :-1] + self.weight[:, -1:]


def fit_logistic(features_BUK: Tensor, labels_BUC: Tensor, l2: float = L2) -> Probe:
    """Logistic regression with an L2 penalty: many targets of a design share their steps, one goes by Newton's."""
    mean, scale, x = _standardised(features_BUK)
    labels, penalty = labels_BUC.double(), _penalty(x, l2)
    return Probe(mean, scale, (_newton if labels.shape[2] == 1 else _bounds)(x, labels, penalty))


def _newton(x: Tensor, labels: Tensor, penalty: Tensor) -> Tensor:
    """Weights [B, K, 1] at the minimum. Steps that would not lower a design's loss are halved."""

    def losses(w: Tensor) -> Tensor:
        scores = x @ w
        misfit = (torch.logaddexp(scores, torch.zeros_like(scores)) - labels * scores).mean((1, 2))
        return misfit + (penalty[:, None] * w.square()).sum((1, 2)) / 2

    w = x.new_zeros(len(x), x.shape[2], 1)
    loss = losses(w)
    for _ in range(_MOST_STEPS):
        chances = (x @ w).sigmoid()
        gradient = x.mT @ (chances - labels) / x.shape[1] + penalty[:, None] * w
        hessian = (x * (chances * (1 - chances))).mT @ x / x.shape[1] + torch.diag(penalty)
        step = torch.cholesky_solve(gradient, torch.linalg.cholesky(hessian))
        for _ in range(_MOST_HALVINGS):
            worse = losses(w - step) > loss + _ROUNDING
            if not bool(worse.any()):
                break
            step = step.where(~worse[:, None, None], step / 2)
        w = w - step
        loss = losses(w)
        if bool((step.abs().amax((1, 2)) <= _CONVERGED * w.abs().amax((1, 2))).all()):
            break
    return w


def _bounds(x: Tensor, labels: Tensor, penalty: Tensor) -> Tensor:
    """Weights [B, K, C] near the minimum by bound optimisation.

    The Hessian never exceeds X^T X / 4 (Boehning), so one factorisation serves all targets of a design and every step;
    Nesterov's momentum makes up for the bound's caution.
    """
    factor = torch.linalg.cholesky(x.mT @ x / (4 * x.shape[1]) + torch.diag(penalty))
    w = x.new_zeros(len(x), x.shape[2], labels.shape[2])
    before, momentum = w, 1.0
    for _ in range(_NUM_STEPS):
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = w + (momentum - 1) / following * (w - before)
        gradient = x.mT @ ((x @ ahead).sigmoid() - labels) / x.shape[1] + penalty[:, None] * ahead
        before, momentum = w, following
        w = ahead - torch.cholesky_solve(gradient, factor)
    return w


def fit_ridge(features_BUK: Tensor, targets_BUC: Tensor, l2: float = L2) -> Probe:
    """Least squares with an L2 penalty."""
    mean, scale, x = _standardised(features_BUK)
    gram = x.mT @ x / x.shape[1] + torch.diag(_penalty(x, l2))
    moment = x.mT @ targets_BUC.double() / x.shape[1]
    return Probe(mean, scale, torch.cholesky_solve(moment, torch.linalg.cholesky(gram)))


def _standardised(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    features = features.double()
    mean = features.mean(1, keepdim=True)
    scale = (features - mean).square().mean(1, keepdim=True).sqrt()
    scale = scale.where(scale > 1e-9 * (1 + mean.abs()), 1.0)
    x = (features - mean) / scale
    return mean, scale, torch.cat([x, torch.ones_like(x[:, :, :1])], 2)


def _penalty(x: Tensor, l2: float) -> Tensor:
    penalty = torch.full((x.shape[2],), l2, dtype=torch.float64, device=x.device)
    penalty[-1] = 1e-9  # the intercept is free
    return penalty
