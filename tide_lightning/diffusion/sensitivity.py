"""How much the denoiser's prediction cares about each direction of a site's activation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.replicas import Replicas
from tide_lightning.diffusion.sites import Site
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.tokens import FidelityLoss, Sensitivity, bin_of


class Forward(NamedTuple):
    """What it takes to see how the denoiser's loss on some samples changes with an activation.

    Fields:
        x_t: the denoiser's input [N, ...].
        raw_t: timesteps as the denoiser is given them [N].
        conditioning: prompts, N rows.
        v: numbers drawn from N(0, I), in the prediction's shape.
        target: what a perfect denoiser would predict; needed for the relative loss only.
    """

    x_t: Tensor
    raw_t: Tensor
    conditioning: Conditioning
    v: Tensor
    target: Tensor | None = None


NUM_BINS = 20
"""Equal bins of t in which sensitivities are told apart."""


def sensitivity(
    denoiser: Denoiser, sites: Sequence[Site], forwards: Iterable[Forward], loss: FidelityLoss = "plain"
) -> dict[str, Sensitivity]:
    """E[w(t) J' J] for each site, J the prediction's derivative by one token's activation.

    An error e of a token raises the denoiser's loss by e' E[J' J] e to second order. With v ~ N(0, I) and g = J' v,
    E[g g'] = E[J' J]: one backward pass for each forward. For the plain loss w is 1; for the relative one it
    is 1 over the denoiser's mean loss at t, which takes one more forward. Summed over ranks.
    """
    replicas = Replicas(denoiser)
    if loss == "relative":
        forwards = list(forwards)
        losses = _loss_by_time(replicas, forwards, denoiser.device)
    else:
        losses = torch.ones(NUM_BINS, dtype=torch.float64, device=denoiser.device)
    sums: dict[str, Tensor] = {}
    counts = {str(site): torch.zeros((), dtype=torch.float64, device=denoiser.device) for site in sites}
    by_time = {str(site): torch.zeros(2, NUM_BINS, dtype=torch.float64, device=denoiser.device) for site in sites}

    def run(denoiser: Denoiser, forward: Forward) -> tuple[Tensor, dict[str, Tensor]]:
        return forward.raw_t, _gradients(denoiser, sites, forward)

    for raw_t, gradients in replicas.map(run, forwards):
        bin_N = _bins(denoiser, raw_t)
        root_N = losses[bin_N].rsqrt()
        for site, g_NTD in gradients.items():
            g_NTD = g_NTD.double() * root_N.reshape(-1, *[1] * (g_NTD.ndim - 1))
            g_BD = g_NTD.flatten(0, -2)
            sums[site] = g_BD.mT @ g_BD + sums.get(site, 0)
            counts[site] += len(g_BD)
            square_N = g_NTD.square().mean(-1).flatten(1).mean(1)
            by_time[site].index_add_(1, bin_N, torch.stack([square_N, torch.ones_like(square_N)]))
    for found in (*counts.values(), *by_time.values()):
        all_reduce_sum(found)
    return {
        site: Sensitivity(all_reduce_sum(total) / counts[site], by_time[site][0] / by_time[site][1])
        for site, total in sums.items()
    }


def _gradients(denoiser: Denoiser, sites: Sequence[Site], forward: Forward) -> dict[str, Tensor]:
    """J' v of every site [N, T, D], from one backward pass: what one site's tokens do, later sites' hand on."""
    reached: dict[str, Tensor] = {}

    def follow(site: Site) -> Callable[[Tensor], Tensor]:
        def keep(value: Tensor) -> Tensor:
            # Of its own where an earlier site leads to it; otherwise the graph begins here.
            own = value.view_as(value) if value.requires_grad else value.detach().requires_grad_(True)
            reached[str(site)] = own
            return own

        return keep

    with torch.enable_grad(), denoiser.splice({site: follow(site) for site in sites}):
        prediction = denoiser.predict(forward.x_t, forward.raw_t, forward.conditioning)
    if not prediction.requires_grad:  # nothing reads the sites, such as the text behind the last block
        return {str(site): torch.zeros_like(reached[str(site)]) for site in sites}
    values, v = [reached[str(site)] for site in sites], forward.v.to(denoiser.device)
    gradients = torch.autograd.grad(prediction, values, v, materialize_grads=True)
    return dict(zip(map(str, sites), gradients, strict=True))


@torch.no_grad()
def _loss_by_time(replicas: Replicas, forwards: Iterable[Forward], device: torch.device) -> Tensor:
    """The denoiser's mean loss in equal bins of t [bins]; a bin without a sample has that of the nearest one."""

    def run(denoiser: Denoiser, forward: Forward) -> tuple[Tensor, Tensor]:
        if forward.target is None:
            raise ValueError("the relative loss needs what a perfect denoiser would predict")
        prediction = denoiser.predict(forward.x_t, forward.raw_t, forward.conditioning).double()
        square = (prediction - forward.target.to(denoiser.device)).square()
        return _bins(denoiser, forward.raw_t), square.flatten(1).mean(1)

    sums = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=device)
    for bin_N, error_N in replicas.map(run, forwards):
        sums.index_add_(1, bin_N, torch.stack([error_N, torch.ones_like(error_N)]))
    total, count = all_reduce_sum(sums)
    filled = count.nonzero()[:, 0]
    nearest = filled[(torch.arange(NUM_BINS, device=count.device)[:, None] - filled).abs().argmin(1)]
    losses: Tensor = total[nearest] / count[nearest]
    return losses.clamp(min=torch.finfo(torch.float32).tiny)


def _bins(denoiser: Denoiser, raw_t: Tensor) -> Tensor:
    return bin_of(denoiser.schedule.t(raw_t.to(denoiser.device)), NUM_BINS)
