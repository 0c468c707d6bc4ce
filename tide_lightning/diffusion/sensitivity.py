"""How much the denoiser's prediction cares about each direction of a site's activation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
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
    E[g g'] = E[J' J]: one backward pass for each site and forward. For the plain loss w is 1; for the relative one it
    is 1 over the denoiser's mean loss at t, which takes one more forward. Summed over ranks.
    """
    if loss == "relative":
        forwards = list(forwards)
        losses = loss_by_time(denoiser, forwards)
    else:
        losses = torch.ones(NUM_BINS, dtype=torch.float64, device=denoiser.device)
    sums = {str(site): torch.zeros(0) for site in sites}
    by_time = {str(site): torch.zeros(2, NUM_BINS, dtype=torch.float64, device=denoiser.device) for site in sites}
    count = torch.zeros((), dtype=torch.float64, device=denoiser.device)
    for x_t, raw_t, conditioning, v, _ in forwards:
        bin_N = _bins(denoiser, raw_t)
        root_N = losses[bin_N].rsqrt()
        leaves: list[Tensor] = []

        def cut(value: Tensor, leaves: list[Tensor] = leaves) -> Tensor:
            leaves.append(value.detach().requires_grad_(True))
            return leaves[-1]

        for site in sites:
            leaves.clear()
            with torch.enable_grad(), denoiser.splice({site: cut}):
                prediction = denoiser.predict(x_t, raw_t, conditioning)
            if prediction.requires_grad:
                [g_NTD] = torch.autograd.grad(prediction, leaves, v.to(denoiser.device))
            else:  # nothing reads the site, such as the text behind the last block
                g_NTD = torch.zeros_like(leaves[0])
            g_NTD = g_NTD.double() * root_N.reshape(-1, *[1] * (g_NTD.ndim - 1))
            g_BD = g_NTD.flatten(0, -2)
            total = sums[str(site)]
            sums[str(site)] = g_BD.mT @ g_BD + (total if total.numel() else 0)
            square_N = g_NTD.square().mean(-1).flatten(1).mean(1)
            by_time[str(site)].index_add_(1, bin_N, torch.stack([square_N, torch.ones_like(square_N)]))
        count += g_BD.shape[0]
    all_reduce_sum(count)
    for found in by_time.values():
        all_reduce_sum(found)
    return {
        site: Sensitivity(all_reduce_sum(total) / count, by_time[site][0] / by_time[site][1])
        for site, total in sums.items()
    }


@torch.no_grad()
def loss_by_time(denoiser: Denoiser, forwards: Iterable[Forward]) -> Tensor:
    """The denoiser's mean loss in equal bins of t [bins]; a bin without a sample has that of the nearest one."""
    sums = torch.zeros(2, NUM_BINS, dtype=torch.float64, device=denoiser.device)
    for x_t, raw_t, conditioning, _, target in forwards:
        if target is None:
            raise ValueError("the relative loss needs what a perfect denoiser would predict")
        error_N = (denoiser.predict(x_t, raw_t, conditioning).double() - target.to(denoiser.device)).square()
        error_N = error_N.flatten(1).mean(1)
        sums.index_add_(1, _bins(denoiser, raw_t), torch.stack([error_N, torch.ones_like(error_N)]))
    total, count = all_reduce_sum(sums)
    filled = count.nonzero()[:, 0]
    nearest = filled[(torch.arange(NUM_BINS, device=count.device)[:, None] - filled).abs().argmin(1)]
    losses: Tensor = total[nearest] / count[nearest]
    return losses.clamp(min=torch.finfo(torch.float32).tiny)


def _bins(denoiser: Denoiser, raw_t: Tensor) -> Tensor:
    return bin_of(denoiser.schedule.t(raw_t.to(denoiser.device)), NUM_BINS)
