"""SAEs written where others can load them."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from tide_lightning.callbacks.resumed import CompletesKilledFit
from tide_lightning.diffusion import folder_name
from tide_lightning.sharding import is_sharded, whole_weights
from tide_lightning.training import TideModule
from tide_lightning.training.finite import not_finite

_log = logging.getLogger(__name__)


class ExportSAEs(CompletesKilledFit):
    """Writes `<run>/saes/<site>/cfg.json + sae.safetensors`, for `SAE.from_pretrained`.

    That happens when a fit ends, when it is interrupted or fails after at least one step, and with every checkpoint
    where that is cheap. Only rank 0 writes.

    Args:
        max_megabytes_at_checkpoints: export along with each checkpoint if all SAEs together take no more than this.
    """

    def __init__(self, max_megabytes_at_checkpoints: int = 256) -> None:
        self.max_megabytes_at_checkpoints = max_megabytes_at_checkpoints
        self._run: Path | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See where the run is, while all ranks are here to agree."""
        super().on_fit_start(trainer, pl_module)
        self._run = Path(trainer.log_dir or trainer.default_root_dir)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run is complete."""
        self.export(trainer, pl_module)

    def complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run may have been killed before it was exported."""
        if not is_sharded(pl_module):
            self.export(trainer, pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Interrupted by the user or an error: what was trained is worth keeping."""
        if is_sharded(pl_module):
            return  # the other ranks may not come to bring their shares
        if trainer.state.fn == TrainerFn.FITTING and trainer.global_step > 0:
            self.export(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """A checkpoint is made: export too, if that is cheap."""
        assert isinstance(pl_module, TideModule)
        size = sum(tensor.nbytes for tensor in pl_module.saes.state_dict().values())
        if trainer.state.fn == TrainerFn.FITTING and size <= self.max_megabytes_at_checkpoints * 2**20:
            self.export(trainer, pl_module)

    def export(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write every site's SAE."""
        if self._run is None or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, TideModule)
        for site in pl_module.sites:
            with whole_weights(pl_module.sae(site)):
                if trainer.is_global_zero:
                    if (name := not_finite(pl_module.sae(site).state_dict())) is not None:
                        _log.warning("%s is not exported: its %s is not finite", site, name)
                        continue
                    pl_module.sae(site).save_pretrained(
                        self._run / "saes" / folder_name(site),
                        site=site,
                        step=trainer.global_step,
                        tokens_seen=int(pl_module.tokens_seen),
                        **_denoiser(trainer),
                    )


def _denoiser(trainer: Trainer) -> dict[str, Any]:
    """Which denoiser an SAE belongs to and how it counts time."""
    datamodule = trainer.datamodule  # type: ignore[attr-defined]
    raw_t = datamodule.denoiser.schedule.raw_t(torch.tensor([0.0, 1.0])).tolist()
    return {
        "pretrained": datamodule.pretrained,
        "revision": datamodule.loading.revision,
        "denoiser": datamodule.denoiser.fingerprint(),
        "timestep": {"normalised": "1 is pure noise", "raw_at_0": raw_t[0], "raw_at_1": raw_t[1]},
    }
