"""Training through the denoiser: what counts of a reconstruction is what the denoiser makes of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tide_lightning.datamodules import ActivationDataModule, Call
from tide_lightning.diffusion import Denoiser
from tide_lightning.errors import UserError
from tide_lightning.intervene.splicing import reconstruct_by, splice_cases, splice_denoiser, why_not
from tide_lightning.reduction import all_reduce_sum
from tide_lightning.sharding import is_sharded
from tide_lightning.training import TideModule, steps_of_fit

_BASE_CALLS = 8  # forwards from which the denoiser's own loss is measured


class KeepPredictions(Callback):
    """Trains SAEs, over the last part of a run, to leave the denoiser's prediction as it is when they are spliced.

    A step's loss grows by weight * E |spliced prediction - prediction|^2 / E |prediction - target|^2. For a denoiser
    that predicts as well as it can, this ratio is by how much splicing raises its loss. Steps take turns: each SAE
    alone, and, where every site has one, all of them together, each reading what those before it have left. Samples
    are noised ones, drawn apart from the batches; they follow from the step's number, so a resumed run goes on exactly.

    Args:
        from_fraction: part of the run after which it begins.
        weight: of the ratio, beside each SAE's own loss.
        num_samples: whole samples a step, over all ranks together.
    """

    def __init__(self, from_fraction: float = 0.8, weight: float = 1.0, num_samples: int = 16) -> None:
        if not 0 <= from_fraction < 1 or weight <= 0 or num_samples < 1:
            raise UserError(
                f"KeepPredictions: from_fraction = {from_fraction} must lie in [0, 1), weight = {weight} above 0 and"
                f" num_samples = {num_samples} be at least 1"
            )
        self.from_fraction, self.weight, self.num_samples = from_fraction, weight, num_samples
        self._first = 0.0
        self._change: Callable[[], Tensor] | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the denoiser's own loss, and see when to begin."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, TideModule) or not isinstance(data, ActivationDataModule):
            raise UserError("KeepPredictions: needs a TideModule and an ActivationDataModule")
        if is_sharded(pl_module):
            raise UserError("KeepPredictions: SAEs whose latents are spread over ranks cannot be spliced: leave it out")
        saes = {site: pl_module.sae(site) for site in pl_module.sites}
        for site, sae in saes.items():
            if reason := why_not(sae):
                raise UserError(f"KeepPredictions: {site} cannot be spliced: its {reason}")
        calls, denoiser = data.noised_calls(self.num_samples), data.denoiser
        own_loss = _own_loss(denoiser, calls)
        spliced = [
            (name, splice_denoiser(denoiser, {site: reconstruct_by(saes[site]) for site in sites}))
            for name, sites in splice_cases(saes).items()
        ]
        self._first = self.from_fraction * steps_of_fit(trainer)

        def change() -> Tensor:
            step = pl_module.global_step
            name, twin = spliced[step % len(spliced)]
            ratio = prediction_change(denoiser, twin, calls(step)) / own_loss
            pl_module.log(f"train/{name}/prediction_change", ratio.detach(), rank_zero_only=True)
            return self.weight * ratio

        self._change = change

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Add to the module's loss from then on."""
        assert isinstance(pl_module, TideModule)
        if trainer.global_step >= self._first:
            pl_module.further_loss = self._change

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The module's loss is its own again."""
        assert isinstance(pl_module, TideModule)
        pl_module.further_loss = None


def prediction_change(denoiser: Denoiser, spliced: Denoiser, call: Call) -> Tensor:
    """Mean square of what splicing does to the prediction."""
    with torch.no_grad():
        original = denoiser.predict(call.x_t, call.raw_t, call.conditioning)
    return (spliced.predict(call.x_t, call.raw_t, call.conditioning) - original).square().mean()


@torch.no_grad()
def _own_loss(denoiser: Denoiser, calls: Callable[[int], Call]) -> Tensor:
    total = torch.zeros(2, dtype=torch.float64, device=denoiser.device)
    for call in map(calls, range(_BASE_CALLS)):
        assert call.x0 is not None
        assert call.noise is not None
        target = denoiser.schedule.target(call.x0, call.noise, call.raw_t)
        error = (denoiser.predict(call.x_t, call.raw_t, call.conditioning) - target).double().square().mean()
        total += torch.stack([error, torch.ones_like(error)])
    all_reduce_sum(total)
    return (total[0] / total[1]).float()
