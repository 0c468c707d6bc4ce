"""Floors that a run keeps: fitted in its fit, on the tokens that calibrate its SAEs, and taken by its tests.

<run>/floors/cfg.json              which tokens they were fitted on
<run>/floors/floors.safetensors    <site>|<name of a buffer of FittedFloors>

What is not there, or was fitted on other tokens, a test fits itself.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.errors import UserError
from tide_lightning.evaluation.floors import FittedFloors, FloorStatistics, floors_of
from tide_lightning.reduction import all_reduce_sum, rank_and_world
from tide_lightning.saes.untrusted import read_json, read_safetensors
from tide_lightning.saes.whole import sealed, sha256, write_pair
from tide_lightning.tokens import TokenBatch
from tide_lightning.training import TideModule

SCHEMA = 1
FOLDER, CFG, WEIGHTS = "floors", "cfg.json", "floors.safetensors"

_log = logging.getLogger(__name__)


class KeepFloors(Callback):
    """Fits floors while a fit is calibrated, so that `tide test` need not read the same tokens again.

    Args:
        max_megabytes: of all sites' floors; larger ones are left to `tide test`.
    """

    def __init__(self, max_megabytes: int = 256) -> None:
        super().__init__()
        self.max_megabytes = max_megabytes
        self._floors: dict[str, FittedFloors] = {}
        self._statistics: dict[str, FloorStatistics] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look on, if there is going to be a calibration."""
        self._run = Path(trainer.log_dir or trainer.default_root_dir)  # here, where all ranks are
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if not isinstance(pl_module, TideModule) or not isinstance(data, ActivationDataModule):
            return
        if bool(pl_module.is_calibrated) or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        floors = floors_of({site: pl_module.sae(site) for site in pl_module.sites})
        size = sum(buffer.nbytes for each in floors.values() for buffer in each.buffers())
        if size <= self.max_megabytes * 2**20:
            self._floors = {site: each.to(pl_module.device) for site, each in floors.items()}
            self._statistics = {site: FloorStatistics(each).to(pl_module.device) for site, each in self._floors.items()}
            pl_module.watch_calibration = self._see

    def _see(self, batch: dict[str, TokenBatch]) -> None:
        for site, tokens in batch.items():
            self._statistics[site].update(tokens)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The calibration is over: fit, and let rank 0 write."""
        if not self._statistics:
            return
        for statistics in self._statistics.values():
            statistics.fit()
        if trainer.is_global_zero:
            data: Any = trainer.datamodule  # type: ignore[attr-defined]
            try:
                write_floors(self._run, data.calibration_contents(), self._floors)
            except UserError as error:  # no reason to end a fit
                _log.warning("%s; tide test will fit the floors itself", error)
        assert isinstance(pl_module, TideModule)
        pl_module.watch_calibration = None
        self._floors, self._statistics = {}, {}


def write_floors(run: Path, contents: Mapping[str, Any], floors: Mapping[str, FittedFloors]) -> None:
    """Keep floors that were fitted on the tokens that `contents` describes."""
    tensors = {f"{site}|{name}": value for site, one in floors.items() for name, value in one.state_dict().items()}
    write_pair(run / FOLDER, CFG, {"schema": SCHEMA, "tokens": dict(contents)}, WEIGHTS, tensors, hashed=True)


def read_floors(run: Path, contents: Mapping[str, Any], floors: Mapping[str, FittedFloors]) -> bool:
    """Fill in what was kept, if it was fitted on such tokens and every rank finds it; all ranks must ask."""
    found = _found(run / FOLDER, contents, floors)
    some = next(iter(floors.values())).mean
    if (
        int(all_reduce_sum(torch.tensor(found is not None, dtype=torch.int64, device=some.device)))
        < rank_and_world()[1]
    ):
        return False
    assert found is not None
    for site, one in floors.items():
        one.load_state_dict(found[site])
    return True


def _found(
    folder: Path, contents: Mapping[str, Any], floors: Mapping[str, FittedFloors]
) -> dict[str, dict[str, Tensor]] | None:
    """The state of each site's floors; None where there is none for these tokens and sizes."""
    if not (folder / CFG).is_file():
        return None
    try:
        cfg = read_json(folder / CFG)
        if cfg.get("schema") != SCHEMA or cfg.get("tokens") != contents:
            return None
        tensors = read_safetensors(folder / WEIGHTS)
        if cfg != sealed(cfg) or cfg.get("sha256") != sha256(folder / WEIGHTS):
            raise UserError(f"{folder} is damaged")
    except UserError as error:
        _log.warning("%s; the floors are fitted anew", error)
        return None
    states: dict[str, dict[str, Tensor]] = {}
    for site, one in floors.items():
        states[site] = {}
        for name, wanted in one.state_dict().items():
            kept = tensors.get(f"{site}|{name}")
            if name == "components" and kept is not None:
                kept = kept[:, : wanted.shape[1]]  # of an SAE with a larger k there are more
            if kept is None or kept.shape != wanted.shape or kept.dtype != wanted.dtype:
                return None
            states[site][name] = kept
    return states
