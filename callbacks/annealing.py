"""Sparsity that tightens over the first part of a run."""

from __future__ import annotations

from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tide_lightning.errors import UserError
from tide_lightning.saes import SAE
from tide_lightning.training import TideModule


class AnnealSparsity(Callback):
    """Trains with many active latents first and lowers k linearly to the SAE's own.

    The k of a step follows from the step's number alone, so a resumed run goes on exactly. It holds during the
    training forward only: validation, checkpoints and exported SAEs always have the SAE's own k.

    Args:
        k_start: active latents a token at the first step: a number, or below 1 a fraction of d_sae.
        over_fraction: part of the run after which the SAE's own k is reached.
    """

    def __init__(self, k_start: int | float, over_fraction: float = 0.2) -> None:
        if not 0 < over_fraction <= 1:
            raise UserError(f"AnnealSparsity: over_fraction = {over_fraction} must lie above 0 and up to 1")
        self.k_start, self.over_fraction = k_start, over_fraction
        self._own: dict[str, tuple[int, int | None]] = {}
        self._num_steps = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check `k_start` and see how long the run is."""
        self._num_steps = float(trainer.estimated_stepping_batches) * self.over_fraction
        for site, sae in _saes(pl_module).items():
            start = self._start(sae)
            if not max(sae.k, sae.k_noisy or 0) <= start <= sae.d_sae:
                raise UserError(
                    f"AnnealSparsity: k_start = {self.k_start} is {start} latents at {site}; "
                    f"choose from the SAE's own k = {sae.k} up to d_sae = {sae.d_sae}"
                )

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Loosen k for this step's forward."""
        left = 1 - trainer.global_step / self._num_steps
        if left <= 0:
            return
        for site, sae in _saes(pl_module).items():
            self._own[site] = sae.k, sae.k_noisy
            start = self._start(sae)
            sae.k = round(sae.k + left * (start - sae.k))
            if sae.k_noisy is not None:
                sae.k_noisy = round(sae.k_noisy + left * (start - sae.k_noisy))

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """The forward is done: back to the SAE's own k."""
        self.restore(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the SAE with its own k wherever the run was interrupted."""
        self.restore(pl_module)

    def restore(self, pl_module: LightningModule) -> None:
        """Give every SAE its own k again."""
        for site, sae in _saes(pl_module).items():
            if site in self._own:
                sae.k, sae.k_noisy = self._own.pop(site)

    def _start(self, sae: SAE) -> int:
        return round(self.k_start * sae.d_sae) if self.k_start < 1 else int(self.k_start)


def _saes(pl_module: LightningModule) -> dict[str, SAE]:
    assert isinstance(pl_module, TideModule)
    return {site: pl_module.sae(site) for site in pl_module.sites}
