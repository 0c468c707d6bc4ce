"""How long a fit is, and where it goes on."""

from __future__ import annotations

import math

from lightning import Trainer

from tide_lightning.datamodules import ActivationDataModule
from tide_lightning.datamodules.loader import ActivationLoader
from tide_lightning.errors import UserError


def total_steps(num_batches: int, max_steps: int, max_epochs: int | None, accumulate: int = 1) -> int | float:
    """Optimiser steps of a fit with `num_batches` batches an epoch; infinite where it has no end (-1)."""
    steps = math.inf if max_steps < 0 else max_steps
    if max_epochs is None or max_epochs < 0:
        return steps
    return min(steps, math.ceil(num_batches / accumulate) * max_epochs)


def steps_of_fit(trainer: Trainer) -> int | float:
    """Optimiser steps of the whole fit.

    Not by `trainer.estimated_stepping_batches`, which makes the loader: where a checkpoint's state has not reached it
    yet, the loader would begin anew and train on the same batches again.
    """
    data, limit = trainer.datamodule, trainer.limit_train_batches  # type: ignore[attr-defined]
    if not isinstance(data, ActivationDataModule):  # another one, whose loader has no state that could be lost
        return trainer.estimated_stepping_batches
    num_batches = data.batches_per_epoch
    num_batches = min(num_batches, limit) if isinstance(limit, int) else int(num_batches * limit)
    return total_steps(num_batches, trainer.max_steps, trainer.max_epochs, trainer.accumulate_grad_batches)


def check_place(trainer: Trainer) -> None:
    """Refuse a resumed fit whose loader stands before the checkpoint's place; every rank must call it."""
    trained = trainer.fit_loop.total_batch_idx + 1
    loader = trainer.train_dataloader
    if trained and isinstance(loader, ActivationLoader):
        made = loader.state_dict()["batches"]
        if made < trained:
            raise UserError(
                f"the checkpoint has trained on {trained} batches, but the data would go on behind batch {made}: "
                "these would be trained on again"
            )
