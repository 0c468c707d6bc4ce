"""The end of a fit that was resumed with nothing left to train."""

from __future__ import annotations

from abc import abstractmethod

from lightning import Callback, LightningModule, Trainer


class CompletesKilledFit(Callback):
    """Does what a fit's end should have done that was killed behind its last step's checkpoint, when it is resumed."""

    _has_trained = False  # Lightning does not tell at `on_fit_end`

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing is done yet."""
        self._has_trained = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There are steps to go."""
        self._has_trained = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """There were none."""
        if not self._has_trained and trainer.global_step > 0:
            self.complete(trainer, pl_module)

    @abstractmethod
    def complete(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Do it."""
