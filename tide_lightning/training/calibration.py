"""What is estimated before the first step: known parts, scales, the metric, the start of the modulation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, get_args

import torch

from tide_lightning.diffusion import Denoiser, unlabelled
from tide_lightning.errors import UserError
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.saes import SAE, KnownStatistics
from tide_lightning.sharding import whole_weights
from tide_lightning.tokens import FidelityLoss, Sensitivity, TokenBatch
from tide_lightning.training.finite import not_finite


class ActivationSource(Protocol):
    """What a fit asks of its datamodule before the first step."""

    def calibration_batches(self) -> Iterator[dict[str, TokenBatch]]:
        """Tokens of the training distribution, from which the known part is estimated."""

    def sensitivity(self, sites: list[str], loss: FidelityLoss) -> dict[str, Sensitivity]:
        """How much the denoiser's loss depends on each direction of a site's activation, and when."""

    @property
    def denoiser(self) -> Denoiser:
        """The frozen denoiser, whose adaLN the modulation may start at."""


@torch.no_grad()
def calibrate(
    saes: Mapping[str, SAE],
    source: ActivationSource,
    device: torch.device,
    watch: Callable[[dict[str, TokenBatch]], None] | None = None,
) -> None:
    """Fit every SAE's known part and scale on the source's first tokens; begin modulation at the site's adaLN.

    Who else wants these tokens is shown them by `watch`.
    """
    statistics = {site: KnownStatistics(sae.known).to(device) for site, sae in saes.items()}
    first: dict[str, TokenBatch] = {}
    bad = {site: torch.zeros(2, dtype=torch.int64, device=device) for site in saes}  # tokens not finite, and all
    for batch in source.calibration_batches():
        first = first or batch
        if watch is not None:
            watch(batch)
        for site, one in statistics.items():
            if unlabelled(site) in batch:
                tokens = batch[unlabelled(site)]
                one.update(tokens)
                is_finite = tokens.x.isfinite().all(1)
                bad[site] += torch.stack([(~is_finite).sum(), is_finite.new_tensor(len(tokens), dtype=torch.int64)])
    for site, counts in bad.items():
        number, total = all_reduce_sum(counts).tolist()
        if number:
            raise UserError(
                f"{site}: the activations of {number:,} of {total:,} calibration tokens are not finite; "
                "give the denoiser a wider range (data.loading.dtype: float32, or bfloat16), or read another site"
            )
    sensitivity: dict[FidelityLoss, dict[str, Sensitivity]] = {}
    for loss in get_args(FidelityLoss):
        weighted = [
            unlabelled(site) for site, sae in saes.items() if sae.asks_sensitivity and sae.fidelity_loss == loss
        ]
        if weighted:
            sensitivity[loss] = source.sensitivity(list(dict.fromkeys(weighted)), loss)
    for site, sae in saes.items():
        statistics[site].fit()
        with whole_weights(sae):
            if sae.asks_sensitivity:
                sae.fit_sensitivity(sensitivity[sae.fidelity_loss][unlabelled(site)], first[unlabelled(site)])
            _start_modulation(sae, source.denoiser, site, device)
        if (name := not_finite(sae.state_dict())) is not None:
            raise UserError(f"{site}: {name} is not finite after calibration; give more data.num_calibration_samples")


def _start_modulation(sae: SAE, denoiser: Denoiser, site: str, device: torch.device) -> None:
    if sae.modulation is None or sae.modulation_start != "adaln":
        return
    curves = denoiser.adaln(site)
    if curves is not None:
        t, scale, shift = (curve.to(device) for curve in curves)
        sae.modulation.initialise(t, scale, shift)
