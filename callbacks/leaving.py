"""A fit leaves a checkpoint whenever and however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tide_lightning.callbacks.resumed import CompletesKilledFit
from tide_lightning.files import whole_file

_SAID = b"\ntide: completing this step; Ctrl-C once more stops at once\n"


class LeaveCheckpoint(CompletesKilledFit):
    """Writes `last.ckpt` when a fit ends behind its last checkpoint, and on Ctrl-C.

    Ctrl-C completes the step at hand, for what is kept between two steps is what a resumed fit goes on from without a
    trace. A second one stops at once. A fit of several processes is left to those who watch over all of them.
    """

    def __init__(self) -> None:
        self._is_asked = False
        self._before: Any = None  # who was told of Ctrl-C
        self._kept_at = -1  # step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From here on a step is completed first."""
        super().on_train_start(trainer, pl_module)
        if trainer.world_size == 1 and threading.current_thread() is threading.main_thread():
            self._is_asked = False
            self._before = signal.signal(signal.SIGINT, self._ask)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Behind an optimiser's step, stop if that was asked."""
        if self._is_asked and (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self._keep(trainer)
            raise KeyboardInterrupt

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning keeps the end only of a fit that has kept nothing else."""
        kept = trainer.checkpoint_callback
        if isinstance(kept, ModelCheckpoint) and kept.last_model_path:
            self._keep(trainer)

    def complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The last step may not have come into `last.ckpt`."""
        last, resumed = _last_checkpoint(trainer), Path(trainer.ckpt_path or "")
        if last is None or not trainer.is_global_zero or not resumed.is_file():
            return
        if resumed.parent == last.parent and resumed != last:
            with whole_file(last) as part:
                shutil.copyfile(resumed, part)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what is kept."""
        self._kept_at = trainer.global_step

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give Ctrl-C back."""
        self._give_back()

    def _ask(self, number: int, frame: object) -> None:
        if self._is_asked:
            raise KeyboardInterrupt
        self._is_asked = True
        os.write(2, _SAID)  # not by print, which may be what was interrupted

    def _give_back(self) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)
            self._before = None

    def _keep(self, trainer: Trainer) -> None:
        """Write the last checkpoint, unless it is of this step; every rank must call it."""
        last = _last_checkpoint(trainer)
        if last is not None and self._kept_at != trainer.global_step:
            write_last(trainer, last)


def write_last(trainer: Trainer, path: Path) -> None:
    """Write a checkpoint that Lightning takes for its last; every rank must call it."""
    assert isinstance(trainer.checkpoint_callback, ModelCheckpoint)
    trainer.checkpoint_callback.last_model_path = str(path)
    trainer.save_checkpoint(path)


def path_of_last(kept: object) -> Path | None:
    """Where a fit's last checkpoint lies, if it keeps any."""
    if not isinstance(kept, ModelCheckpoint) or not kept.dirpath:
        return None
    return Path(kept.last_model_path or f"{kept.dirpath}/{kept.CHECKPOINT_NAME_LAST}{kept.FILE_EXTENSION}")


def _last_checkpoint(trainer: Trainer) -> Path | None:
    kept = trainer.checkpoint_callback
    return path_of_last(kept) if getattr(kept, "save_last", False) else None
