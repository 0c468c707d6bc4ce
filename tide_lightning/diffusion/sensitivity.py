"""How much the denoiser's prediction cares about each direction of a site's activation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tide_lightning.diffusion.conditioning import Conditioning
from tide_lightning.diffusion.denoiser import Denoiser
from tide_lightning.diffusion.sites import Site
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.tokens import Sensitivity

Forward = tuple[Tensor, Tensor, Conditioning, Tensor]
"""x_t, raw_t and the conditioning of some samples, and numbers v ~ N(0, I) in the prediction's shape."""


NUM_BINS = 20
"""Equal bins of t in which sensitivities are told apart."""


def sensitivity(denoiser: Denoiser, sites: Sequence[Site], forwards: Iterable[Forward]) -> dict[str, Sensitivity]:
    """E[J' J] for each site, J the prediction's derivative by one token's activation.

    An error e of a token raises the denoiser's loss by e' E[J' J] e to second order. With v ~ N(0, I) and g = J' v,
    E[g g'] = E[J' J]: one backward pass for each site and forward. Summed over ranks.
    """
    sums = {str(site): torch.zeros(0) for site in sites}
    by_time = {str(site): torch.zeros(2, NUM_BINS, dtype=torch.float64, device=denoiser.device) for site in sites}
    count = torch.zeros((), dtype=torch.float64, device=denoiser.device)
    for x_t, raw_t, conditioning, v in forwards:
        bin_N = (denoiser.schedule.t(raw_t.to(denoiser.device)) * NUM_BINS).long().clamp(0, NUM_BINS - 1)
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
            g_BD = g_NTD.flatten(0, -2).double()
            total = sums[str(site)]
            sums[str(site)] = g_BD.mT @ g_BD + (total if total.numel() else 0)
            square_N = g_NTD.double().square().mean(-1).flatten(1).mean(1)
            by_time[str(site)].index_add_(1, bin_N, torch.stack([square_N, torch.ones_like(square_N)]))
        count += g_BD.shape[0]
    all_reduce_sum(count)
    for found in by_time.values():
        all_reduce_sum(found)
    return {
        site: Sensitivity(all_reduce_sum(total) / count, by_time[site][0] / by_time[site][1])
        for site, total in sums.items()
    }
